package secrets_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
)

// inMemory is a table of records.
type inMemory map[string]secrets.Sealed

func (m inMemory) Get(name string) (secrets.Sealed, error) {
	s, ok := m[name]
	if !ok {
		return s, boxlite.Errorf(boxlite.NotFound, "get", name, "no record")
	}
	return s, nil
}

func (m inMemory) Put(_ context.Context, name string, s secrets.Sealed) error {
	m[name] = s
	return nil
}

func (m inMemory) Delete(_ context.Context, name string) error {
	if _, err := m.Get(name); err != nil {
		return err
	}
	delete(m, name)
	return nil
}

func (m inMemory) List() (list []secrets.Sealed, err error) {
	for _, s := range m {
		list = append(list, s)
	}
	return list, nil
}

func key(value string, hosts ...string) boxlite.Secret {
	return boxlite.Secret{Name: "key", Hosts: hosts, Value: boxlite.NewSecretValue(value)}
}

func TestVault(t *testing.T) {
	records, file := inMemory{}, filepath.Join(t.TempDir(), "vault.key")
	v := secrets.NewVault(records, file)
	if _, err := v.Get("key"); boxlite.KindOf(err) != boxlite.NotFound || boxlite.HintOf(err) == "" {
		t.Errorf("before it is set: %v", err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("there is a key before there is a secret")
	}
	info, err := v.Set(t.Context(), key(real, "api.good.test"))
	if err != nil || info.Placeholder != ph || !info.Value.IsZero() {
		t.Fatalf("%+v, %v", info, err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", st, err)
	}
	stored, _ := json.Marshal(records)
	if bytes.Contains(stored, []byte("0123456789")) {
		t.Errorf("the record has the value: %s", stored)
	}
	again := secrets.NewVault(records, file) // of another process
	got, err := again.Get("key")
	if err != nil || got.Value.Reveal() != real || got.Hosts[0] != "api.good.test" {
		t.Errorf("%+v, %v", got, err)
	}
	if s := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(s, "0123456789") {
		t.Errorf("it prints: %s", s)
	}
	if list, err := v.List(); err != nil || len(list) != 1 || list[0].Name != "key" || !list[0].Value.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
	// Replaced.
	if _, err := v.Set(t.Context(), key("another-value", "api.good.test")); err != nil {
		t.Fatal(err)
	}
	if got, err := again.Get("key"); err != nil || got.Value.Reveal() != "another-value" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := v.Remove(t.Context(), "key"); err != nil {
		t.Error(err)
	}
	if _, err := v.Remove(t.Context(), "key"); boxlite.KindOf(err) != boxlite.NotFound {
		t.Errorf("removed twice: %v", err)
	}
}

// Whoever can write the database cannot send a value to another host.
func TestVaultRefusesWhatWasChanged(t *testing.T) {
	records, file := inMemory{}, filepath.Join(t.TempDir(), "vault.key")
	v := secrets.NewVault(records, file)
	if _, err := v.Set(t.Context(), key(real, "api.good.test")); err != nil {
		t.Fatal(err)
	}
	good := records["key"]
	for name, change := range map[string]func(*secrets.Sealed){
		"hosts":  func(s *secrets.Sealed) { s.Secret.Hosts = []string{"evil.test"} },
		"body":   func(s *secrets.Sealed) { s.Secret.InBody = true },
		"value":  func(s *secrets.Sealed) { s.Value = append([]byte{1}, s.Value...) },
		"length": func(s *secrets.Sealed) { s.Value = s.Value[:3] },
	} {
		s := good
		s.Secret.Hosts = append([]string(nil), good.Secret.Hosts...)
		change(&s)
		records["key"] = s
		if got, err := v.Get("key"); boxlite.KindOf(err) != boxlite.Storage || boxlite.HintOf(err) == "" || !got.Value.IsZero() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestVaultKeyThatIsNotThere(t *testing.T) {
	records, file := inMemory{}, filepath.Join(t.TempDir(), "vault.key")
	if _, err := secrets.NewVault(records, file).Set(t.Context(), key(real)); err != nil {
		t.Fatal(err)
	}
	refused := func(what string) {
		t.Helper()
		v := secrets.NewVault(records, file)
		_, errGet := v.Get("key")
		_, errSet := v.Set(t.Context(), key(real))
		for _, err := range []error{errGet, errSet} {
			if boxlite.KindOf(err) != boxlite.Storage || boxlite.HintOf(err) == "" {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	os.Chmod(file, 0o644)
	refused("readable by others")
	os.Chmod(file, 0o600)
	os.Truncate(file, 5)
	refused("too short")
	os.Rename(file, file+".real")
	os.Symlink(file+".real", file)
	refused("a symbolic link")
	os.Remove(file)
	refused("gone")
}
