package secrets

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A Sealed is a secret as the vault keeps it. Fields are added, never renamed.
type Sealed struct {
	Secret  boxlite.Secret `json:"secret"` // without its value
	Updated time.Time      `json:"updated"`
	Nonce   []byte         `json:"nonce"`
	Value   []byte         `json:"value"` // AES-256-GCM; Secret is authenticated with it
}

// Records are where a vault keeps what it has sealed: a table of the database.
type Records interface {
	Get(name string) (Sealed, error) // Errors: NotFound
	Put(ctx context.Context, name string, s Sealed) error
	Delete(ctx context.Context, name string) error // Errors: NotFound
	List() ([]Sealed, error)
}

// A Vault keeps secrets, encrypted with a key that lies in a file beside the
// database. It may be used concurrently.
type Vault struct {
	records Records
	key     *keyFile
}

// A keyFile is the key of a vault.
type keyFile struct {
	path string
	mu   sync.Mutex
	gcm  cipher.AEAD // guarded by mu; nil until it is needed
}

// NewVault returns a vault over records. The file at path keyPath is made, for
// its owner only, when the first secret is set.
func NewVault(records Records, keyPath string) *Vault {
	return &Vault{records: records, key: &keyFile{path: keyPath}}
}

// With returns a vault over other records with the same key.
func (v *Vault) With(records Records) *Vault { return &Vault{records: records, key: v.key} }

// Set keeps a secret with its value, in place of one of the same name.
//
// Errors: [boxlite.Config] for a name, hosts or a value that cannot be;
// [boxlite.Storage]; those of Records.
func (v *Vault) Set(ctx context.Context, s boxlite.Secret) (boxlite.SecretInfo, error) {
	if _, err := boxlite.ParseSecretName(s.Name); err != nil {
		return boxlite.SecretInfo{}, err
	}
	if _, err := NewSet([]boxlite.Secret{s}); err != nil {
		return boxlite.SecretInfo{}, err
	}
	gcm, err := v.cipher(true)
	if err != nil {
		return boxlite.SecretInfo{}, err
	}
	sealed := Sealed{Secret: s, Updated: time.Now().UTC().Truncate(time.Second), Nonce: make([]byte, gcm.NonceSize())}
	sealed.Secret.Value = boxlite.SecretValue{}
	rand.Read(sealed.Nonce)
	bind, err := sealed.bind()
	if err != nil {
		return boxlite.SecretInfo{}, err
	}
	sealed.Value = gcm.Seal(nil, sealed.Nonce, []byte(s.Value.Reveal()), bind)
	return sealed.info(), v.records.Put(ctx, s.Name, sealed)
}

// bind returns what is authenticated with the value: whoever can write the
// database but does not have the key cannot bind it to other hosts.
func (s Sealed) bind() ([]byte, error) { return json.Marshal(s.Secret) }

func (s Sealed) info() boxlite.SecretInfo {
	i := boxlite.SecretInfo{Secret: s.Secret, Source: "vault", Updated: s.Updated}
	if i.Placeholder == "" {
		i.Placeholder = boxlite.DefaultPlaceholder(i.Name)
	}
	return i
}

// Get returns a secret with its value.
//
// Errors: [boxlite.NotFound]; [boxlite.Storage] if the key is not there or is
// not the one.
func (v *Vault) Get(name string) (boxlite.Secret, error) {
	sealed, err := v.records.Get(name)
	if boxlite.KindOf(err) == boxlite.NotFound {
		return boxlite.Secret{}, noSecret(name)
	}
	if err != nil {
		return boxlite.Secret{}, err
	}
	gcm, err := v.cipher(false)
	if err != nil {
		return boxlite.Secret{}, err
	}
	bind, err := sealed.bind()
	if err != nil {
		return boxlite.Secret{}, err
	}
	s := sealed.info().Secret
	plain, err := gcm.Open(nil, sealed.Nonce, sealed.Value, bind)
	if err != nil || len(sealed.Nonce) != gcm.NonceSize() {
		return boxlite.Secret{}, &boxlite.Error{Op: "open secret", Kind: boxlite.Storage, Ref: name,
			Hint: "Set it again: boxlite-mcp secret set " + name + ".", Err: errors.New("it was changed, or sealed with another key")}
	}
	s.Value = boxlite.NewSecretValue(string(plain))
	return s, nil
}

func noSecret(name string) error {
	return &boxlite.Error{Op: "find secret", Kind: boxlite.NotFound, Ref: fmt.Sprintf("%.80q", name),
		Hint: "See with secret_list what there is; an operator adds one with boxlite-mcp secret set."}
}

// Remove forgets a secret.
//
// Errors: [boxlite.NotFound].
func (v *Vault) Remove(ctx context.Context, name string) (boxlite.SecretInfo, error) {
	sealed, err := v.records.Get(name)
	if err == nil {
		err = v.records.Delete(ctx, name)
	}
	if boxlite.KindOf(err) == boxlite.NotFound {
		err = noSecret(name)
	}
	return sealed.info(), err
}

// List returns what there is, by name, without values.
func (v *Vault) List() ([]boxlite.SecretInfo, error) {
	all, err := v.records.List()
	list := []boxlite.SecretInfo{}
	for _, s := range all {
		list = append(list, s.info())
	}
	slices.SortFunc(list, func(a, b boxlite.SecretInfo) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

const keySize = 32

// cipher returns the cipher of the key in the file, which is made if create is
// set and there is none.
func (v *Vault) cipher(create bool) (cipher.AEAD, error) {
	k := v.key
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gcm != nil {
		return k.gcm, nil
	}
	key, err := readKey(k.path)
	if errors.Is(err, fs.ErrNotExist) && create {
		if all, listErr := v.records.List(); listErr != nil || len(all) > 0 {
			return nil, v.keyFault(errors.Join(listErr, errors.New("there are secrets that were sealed with a key which is gone")))
		}
		key, err = makeKey(k.path)
	}
	if err != nil {
		return nil, v.keyFault(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, v.keyFault(err)
	}
	k.gcm, err = cipher.NewGCM(block)
	return k.gcm, err
}

func (v *Vault) keyFault(err error) error {
	return &boxlite.Error{Op: "open vault", Kind: boxlite.Storage, Ref: v.key.path, Err: err,
		Hint: "Put the key file back, or remove all secrets with boxlite-mcp secret rm and set them again."}
}

// readKey reads the key, from a file that nobody else can read.
func readKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("it has mode %v; others must not be able to read it: chmod 600 %s", st.Mode(), path)
	}
	key, err := io.ReadAll(io.LimitReader(f, keySize+1))
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("it has not %d bytes", keySize)
	}
	return key, err
}

// makeKey makes a key and the file, whole or not at all.
func makeKey(path string) ([]byte, error) {
	key := make([]byte, keySize)
	rand.Read(key)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(key)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Link(path+".new", path) // fails if somebody else was first
	}
	os.Remove(path + ".new")
	return key, err
}
