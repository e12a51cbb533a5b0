package boxlite

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretValuesCannotBePrinted(t *testing.T) {
	t.Parallel()
	const key = "sk-live-0123456789"
	secret := Secret{Name: "api", Value: NewSecretValue(key)}
	type outer struct{ inner Secret }
	var out bytes.Buffer
	for _, v := range []any{secret.Value, &secret.Value, secret, &secret, []Secret{secret}, outer{secret}, &outer{secret},
		map[string]SecretValue{"k": secret.Value}, fmt.Errorf("wrap: %v", secret.Value)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		if err := gob.NewEncoder(&out).Encode(v); err == nil {
			t.Logf("gob takes %T", v)
		}
	}
	for _, form := range []string{key, fmt.Sprintf("%x", key), fmt.Sprintf("%d", []byte(key))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the value is printed as %s", form)
		}
	}
	if got := secret.Value.Reveal(); got != key {
		t.Errorf("Reveal() = %q, want %q", got, key)
	}
	if _, err := json.Marshal(secret.Value); err == nil {
		t.Error("JSON takes a value")
	}
	if v := (SecretValue{}); !v.IsZero() || v.Reveal() != "" {
		t.Error("the zero value is a value")
	}
}
