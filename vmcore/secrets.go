package vmcore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
	"github.com/boxlite-mcp/boxlite-mcp/store"
)

// A vault keeps the operator's secrets, which boxes refer to by name, and those
// that were given with a box, which are the box's alone.
//
// Table "secret" has keys of two parts: a box's id, "" for the operator's, and
// the secret's name.
type vault struct {
	table *store.Table[secrets.Sealed]
	all   *secrets.Vault // the operator's

	mu         sync.Mutex
	configured map[string]boxlite.Secret // guarded by mu; of the operator's configuration; replaced, never changed
}

func newVault(db *store.DB, keyPath string, configured []boxlite.Secret) *vault {
	v := &vault{table: store.NewTable(db, "secret", store.TableOptions[secrets.Sealed]{})}
	v.all = secrets.NewVault(scoped{v.table, ""}, keyPath)
	v.configure(configured)
	return v
}

// configure replaces the secrets of the operator's configuration.
func (v *vault) configure(list []boxlite.Secret) {
	configured := map[string]boxlite.Secret{}
	for _, s := range list {
		if s.Placeholder == "" {
			s.Placeholder = boxlite.DefaultPlaceholder(s.Name)
		}
		configured[s.Name] = s
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.configured = configured
}

// fromConfig returns the secrets of the operator's configuration.
func (v *vault) fromConfig() map[string]boxlite.Secret {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.configured
}

// of returns the vault of the secrets that were given with a box.
func (v *vault) of(box boxlite.BoxID) *secrets.Vault { return v.all.With(scoped{v.table, string(box)}) }

// scoped is the part of the table that is one owner's. It is [secrets.Records].
type scoped struct {
	table *store.Table[secrets.Sealed]
	owner string
}

func (s scoped) key(name string) (string, error) { return store.Key(s.owner, name) }

func (s scoped) Get(name string) (secrets.Sealed, error) {
	key, err := s.key(name)
	if err != nil {
		return secrets.Sealed{}, err
	}
	return s.table.Get(key)
}

func (s scoped) Put(ctx context.Context, name string, sealed secrets.Sealed) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	return s.table.Put(ctx, key, sealed)
}

func (s scoped) Delete(ctx context.Context, name string) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	return s.table.Delete(ctx, key)
}

func (s scoped) List() ([]secrets.Sealed, error) {
	var list []secrets.Sealed
	for rec, err := range s.table.All() {
		if err != nil {
			return nil, err
		}
		if parts := store.SplitKey(rec.Key); len(parts) == 2 && parts[0] == s.owner {
			list = append(list, rec.Value)
		}
	}
	return list, nil
}

// get returns a secret of a box with its value: its own, or the operator's,
// bound to the hosts that the box asked for.
func (v *vault) get(box boxlite.BoxID, asked boxlite.Secret) (boxlite.Secret, error) {
	own, err := v.of(box).Get(asked.Name)
	if boxlite.KindOf(err) != boxlite.NotFound {
		return own, err
	}
	s, err := v.operators(asked.Name)
	if err != nil {
		return s, err
	}
	return secrets.Narrow(s, asked.Hosts)
}

// operators returns a secret of the operator's with its value.
func (v *vault) operators(name string) (boxlite.Secret, error) {
	if s, ok := v.fromConfig()[name]; ok {
		return s, nil
	}
	return v.all.Get(name)
}

// mayChange refuses to change what the configuration says.
func (v *vault) mayChange(op, name string) error {
	if _, ok := v.fromConfig()[name]; ok {
		return &boxlite.Error{Op: op, Kind: boxlite.Denied, Ref: name, Err: errors.New("it is in the operator's configuration"), Hint: "Change config.toml in the home directory."}
	}
	return nil
}

// give keeps secrets that were given with a box.
func (v *vault) give(ctx context.Context, box boxlite.BoxID, list []boxlite.Secret) error {
	for _, s := range list {
		if _, err := v.of(box).Set(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// takeBack forgets the secrets that were given with a box.
func (v *vault) takeBack(ctx context.Context, box boxlite.BoxID) error {
	list, err := v.of(box).List()
	for _, s := range list {
		if _, gone := v.of(box).Remove(ctx, s.Name); boxlite.KindOf(gone) != boxlite.NotFound {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// checkSecrets says whether a box may have the secrets that it asks for, and
// returns those that come with a value. The record keeps the others' names and
// hosts, and no value.
//
// Errors: Config, NotFound, Denied for a host that a secret is not bound to.
func (rt *Runtime) checkSecrets(rec *record, asked []boxlite.Secret) (given []boxlite.Secret, err error) {
	rec.Options.Secrets = nil
	for _, s := range asked {
		if s.Value.IsZero() {
			full, err := rt.vault.operators(s.Name)
			if err != nil {
				return nil, err
			}
			narrow, err := secrets.Narrow(full, s.Hosts)
			if err != nil {
				return nil, err
			}
			s = boxlite.Secret{Name: s.Name, Hosts: s.Hosts, Placeholder: narrow.Placeholder}
		} else {
			if _, err := secrets.NewSet([]boxlite.Secret{s}); err != nil {
				return nil, err
			}
			given = append(given, s)
			s.Value = boxlite.SecretValue{}
		}
		rec.Options.Secrets = append(rec.Options.Secrets, s)
		rec.Secrets = append(rec.Secrets, s.Name)
	}
	return given, nil
}

// placeholders returns the variables that tell a box's programs what to send in
// the place of its secrets.
func placeholders(rec record) []boxlite.Env {
	var env []boxlite.Env
	for _, s := range rec.Options.Secrets {
		text := s.Placeholder
		if text == "" {
			text = boxlite.DefaultPlaceholder(s.Name)
		}
		env = append(env, boxlite.Env{Name: s.EnvName(), Value: text})
	}
	return env
}

// Secrets returns the operator's secrets, by name, without values.
//
// Errors: Database.
func (rt *Runtime) Secrets() ([]boxlite.SecretInfo, error) {
	list, err := rt.vault.all.List()
	for _, s := range rt.vault.fromConfig() {
		list = slices.DeleteFunc(list, func(i boxlite.SecretInfo) bool { return i.Name == s.Name })
		s.Value = boxlite.SecretValue{}
		list = append(list, boxlite.SecretInfo{Secret: s, Source: "config"})
	}
	slices.SortFunc(list, func(a, b boxlite.SecretInfo) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

// SetSecret keeps a secret of the operator's, in place of one of the same name.
// Running boxes that use it have the new value when it returns.
//
// Errors: Config, Storage, Database; those of boxes that could not be told, which
// are then stopped.
func (rt *Runtime) SetSecret(ctx context.Context, s boxlite.Secret) (boxlite.SecretInfo, error) {
	if err := rt.vault.mayChange("set secret", s.Name); err != nil {
		return boxlite.SecretInfo{}, err
	}
	info, err := rt.vault.all.Set(ctx, s)
	if err != nil {
		return info, err
	}
	return info, rt.pushSecret(ctx, s.Name)
}

// RemoveSecret forgets a secret of the operator's. Running boxes do not send it
// any more when it returns; they cannot be started again without it.
//
// Errors: NotFound, Database.
func (rt *Runtime) RemoveSecret(ctx context.Context, name string) (boxlite.SecretInfo, error) {
	if err := rt.vault.mayChange("remove secret", name); err != nil {
		return boxlite.SecretInfo{}, err
	}
	info, err := rt.vault.all.Remove(ctx, name)
	if err != nil {
		return info, err
	}
	return info, rt.pushSecret(ctx, name)
}

// pushSecret tells the running boxes that use a secret what it is now.
func (rt *Runtime) pushSecret(ctx context.Context, name string) error {
	var errs []error
	for _, info := range rt.ListInfo() {
		rec, err := rt.get(info.ID)
		if err != nil || !rec.Status.IsActive() || !uses(rec, name) {
			continue
		}
		if err := rt.pushUnder(ctx, info.ID); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func uses(rec record, name string) bool {
	for _, s := range rec.Options.Secrets {
		if s.Name == name {
			return true
		}
	}
	return false
}

// pushUnder is pushNetwork for a box that nobody leads yet.
func (rt *Runtime) pushUnder(ctx context.Context, id boxlite.BoxID) error {
	release, err := rt.acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	rec, err := rt.get(id)
	if err != nil {
		return nil // it is gone, and needs no telling
	}
	return rt.pushNetwork(ctx, rec)
}
