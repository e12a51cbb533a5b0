package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

const (
	maxSecretFile  = 1 << 20          // bytes
	secretTime     = 30 * time.Second // for a command to print its secret
	neitherNorBoth = "one of file and command says where its value is"
)

// check says what is wrong with a secret as it is written.
func (c secret) check(name string) error {
	if _, err := boxlite.ParseSecretName(name); err != nil {
		return err
	}
	switch {
	case (c.File == "") == (len(c.Command) == 0):
		return errors.New(neitherNorBoth)
	case c.File != "" && !filepath.IsAbs(c.File):
		return fmt.Errorf("file %s: the path is not absolute", c.File)
	case c.File == "" && !filepath.IsAbs(c.Command[0]):
		return fmt.Errorf("command %s: the program's path is not absolute", c.Command[0])
	}
	return nil
}

// read returns the secret with its value.
func (c secret) read(ctx context.Context, name string) (boxlite.Secret, error) {
	s := boxlite.Secret{Name: name, Hosts: c.Hosts, Placeholder: c.Placeholder, InQuery: c.InQuery, InBody: c.InBody}
	var value string
	var err error
	if c.File != "" {
		value, err = readSecretFile(c.File)
	} else {
		value, err = runSecretCommand(ctx, c.Command)
	}
	s.Value = boxlite.NewSecretValue(strings.TrimSuffix(strings.TrimSuffix(value, "\n"), "\r"))
	return s, err
}

// readSecretFile reads a regular file that only its owner can read.
func readSecretFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return "", fmt.Errorf("file %s: it is a symbolic link", path)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !st.Mode().IsRegular():
		return "", fmt.Errorf("file %s: it is no regular file", path)
	case st.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("file %s: it has mode %v, and others must not be able to read it: chmod 600", path, st.Mode())
	case st.Size() > maxSecretFile:
		return "", fmt.Errorf("file %s: it has more than %d bytes", path, maxSecretFile)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	return string(data), err
}

// runSecretCommand returns what a command prints. It has the daemon's clean
// environment. What it writes to standard error may be about the secret, so it
// is told to nobody.
func runSecretCommand(ctx context.Context, argv []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, secretTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		return "", fmt.Errorf("command %s: %w", argv[0], err)
	}
	if len(out) > maxSecretFile {
		return "", fmt.Errorf("command %s: it prints more than %d bytes", argv[0], maxSecretFile)
	}
	return string(out), nil
}
