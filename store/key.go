package store

import (
	"errors"
	"strings"

	"github.com/boxlite-mcp/boxlite-mcp"
)

// separator ends a table's name and stands between the parts of a key. No name
// and no part contains it.
const separator = "\x00"

// maxKey is the length of the longest key, in bytes.
const maxKey = 1000

// Keys of the database itself: its table has no name, so no table's keys are
// among them.
const (
	schemaKey = separator + "schema"
	sealKey   = separator + "seal"
)

// Key joins parts into a key that [SplitKey] takes apart again and that sorts
// by its parts. Records whose keys share their first parts are found by
// [TxTable.Prefix].
//
// Errors: [boxlite.InvalidArgument] if a part has a zero byte, or the key would
// be empty or longer than 1000 bytes.
func Key(parts ...string) (string, error) {
	for _, p := range parts {
		if strings.Contains(p, separator) {
			return "", badKey(p, "it has a zero byte")
		}
	}
	key := strings.Join(parts, separator)
	return key, checkKey(key)
}

// SplitKey returns the parts of a key made by [Key].
func SplitKey(key string) []string { return strings.Split(key, separator) }

func checkKey(key string) error {
	switch {
	case key == "":
		return badKey(key, "it is empty")
	case len(key) > maxKey:
		return badKey(key[:32]+"…", "it is longer than 1000 bytes")
	}
	return nil
}

func badKey(key, why string) error {
	return &boxlite.Error{Op: "make key", Kind: boxlite.InvalidArgument, Ref: show(key), Err: errors.New(why)}
}

// show returns a key as a message has it.
func show(key string) string { return strings.Join(SplitKey(key), "/") }

// checkName panics for a name that no table or index may have: names are in
// the program, not in its input.
func checkName(name string) {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		panic("store: bad table or index name " + name)
	}
}

// tablePrefix begins the keys of a table's records.
func tablePrefix(table string) string { return table + separator }

// indexPrefix begins the keys of an index's entries.
func indexPrefix(table, index string) string { return table + "." + index + separator }
