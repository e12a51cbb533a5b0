package listen

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// tokenPrefix makes a token known for what it is where it turns up.
const tokenPrefix = "boxlite_"

// A Token is who may speak to a listener. What a client sends is kept nowhere,
// only its digest.
type Token struct {
	Name      string    `json:"name"`
	Principal string    `json:"principal"` // whose boxes its bearer sees
	Created   time.Time `json:"created"`
	Digest    string    `json:"sha256"` // of the token, in hexadecimal
}

// Tokens are those of a home, in a file that only its owner reads. It may be used
// concurrently, by several processes.
type Tokens struct {
	path string

	mu   sync.Mutex
	list []Token     // guarded by mu; as read
	file os.FileInfo // guarded by mu; that list was read from
}

// NewTokens returns the tokens in the file at path, which need not be there.
func NewTokens(path string) *Tokens { return &Tokens{path: path} }

// List returns the tokens, by name.
//
// Errors: Config if the file can be read by others or is damaged; Storage.
func (t *Tokens) List() ([]Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.read()
}

// read returns the tokens as the file has them now. The caller holds mu.
func (t *Tokens) read() ([]Token, error) {
	st, err := os.Lstat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.list, t.file = nil, nil
		return nil, nil
	}
	if err != nil {
		return nil, t.fault(boxlite.Storage, err, "")
	}
	if t.file != nil && os.SameFile(st, t.file) && st.ModTime().Equal(t.file.ModTime()) && st.Size() == t.file.Size() {
		return t.list, nil
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0 {
		return nil, t.fault(boxlite.Config, fmt.Errorf("it has mode %v", st.Mode()), "Make it readable for its owner only: chmod 600 "+t.path+".")
	}
	data, err := os.ReadFile(t.path)
	if err != nil {
		return nil, t.fault(boxlite.Storage, err, "")
	}
	var list []Token
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, t.fault(boxlite.Config, err, "Delete it, and add the tokens again.")
	}
	t.list, t.file = list, st
	return list, nil
}

func (t *Tokens) fault(kind boxlite.Kind, err error, hint string) error {
	return &boxlite.Error{Op: "read tokens", Kind: kind, Ref: t.path, Err: err, Hint: hint}
}

// Add makes a token and returns it. It is not kept.
//
// Errors: AlreadyExists, InvalidArgument, Storage.
func (t *Tokens) Add(name, principal string) (string, error) {
	if name == "" || len(name) > 64 || principal == "" || len(principal) > 64 {
		return "", boxlite.Errorf(boxlite.InvalidArgument, "add token", name, "a token has a name and a principal of at most 64 bytes")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	list, err := t.read()
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(list, func(o Token) bool { return o.Name == name }) {
		return "", &boxlite.Error{Op: "add token", Kind: boxlite.AlreadyExists, Ref: name, Hint: "Remove it first, or choose another name."}
	}
	token := tokenPrefix + rand.Text() + rand.Text()
	list = append(slices.Clone(list), Token{name, principal, time.Now().UTC().Truncate(time.Second), digest(token)})
	slices.SortFunc(list, func(a, b Token) int { return compare(a.Name, b.Name) })
	return token, t.write(list)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Remove makes a token invalid, at once.
//
// Errors: NotFound, Storage.
func (t *Tokens) Remove(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	list, err := t.read()
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(list), func(o Token) bool { return o.Name == name })
	if len(left) == len(list) {
		return &boxlite.Error{Op: "remove token", Kind: boxlite.NotFound, Ref: name, Hint: "See with boxlite-mcp token list what there is."}
	}
	return t.write(left)
}

// write replaces the file.
func (t *Tokens) write(list []Token) error {
	data, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = os.WriteFile(t.path+".new", append(data, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(t.path+".new", t.path)
	}
	if err != nil {
		return t.fault(boxlite.Storage, err, "")
	}
	t.file = nil
	return nil
}

// Principal returns whose token it is. It takes the same time whichever it is
// not.
func (t *Tokens) Principal(token string) (principal string, ok bool) {
	list, err := t.List()
	if err != nil {
		return "", false
	}
	d := []byte(digest(token))
	for _, o := range list {
		if subtle.ConstantTimeCompare(d, []byte(o.Digest)) == 1 {
			principal, ok = o.Principal, true
		}
	}
	return principal, ok
}

func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
