package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/remote"
)

// The hints of refused images.
const (
	hintRebuild = "Rebuild the image, or use another."
	hintDamaged = "Pull the image again; if it stays damaged, rebuild or push it anew."
	hintTooBig  = "Use a smaller image, or raise the image limits in the configuration."
	hintHostile = "Do not use this image: it is damaged, or made to attack the program that unpacks it."
)

// refuse returns the error for an image that cannot be what it should be.
func refuse(hint, format string, args ...any) error {
	return &boxlite.Error{Op: "read image", Kind: boxlite.Image, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// fault gives an error that leaves the package its meaning. Those that have
// one keep it, and are given the subject.
func (c *Cache) fault(op, ref string, err error) error {
	if err == nil {
		return nil
	}
	out := &boxlite.Error{Op: op, Ref: ref, Err: err}
	if e, ok := errors.AsType[*boxlite.Error](err); ok {
		out.Kind, out.Hint = e.Kind, boxlite.HintOf(e)
		if e.Err != nil && e == err { //nolint:errorlint // only the outermost is replaced
			out.Err = e.Err
		}
		return out
	}
	out.Kind, out.Hint = c.meaning(err)
	return out
}

// meaning classifies an error of the network or the disk.
func (c *Cache) meaning(err error) (boxlite.Kind, string) {
	status, isStatus := errors.AsType[*remote.StatusError](err)
	_, isPath := errors.AsType[*fs.PathError](err)
	_, isLink := errors.AsType[*os.LinkError](err)
	_, isCert := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case errors.Is(err, context.Canceled):
		return boxlite.Canceled, ""
	case errors.Is(err, context.DeadlineExceeded):
		return boxlite.Timeout, "Try again with more time: what was downloaded is kept."
	case errors.Is(err, remote.ErrIdle):
		return boxlite.Timeout, "Try again later: the registry does not answer; what was downloaded is kept."
	case isStatus:
		return statusMeaning(status.Status)
	case errors.Is(err, remote.ErrTooBig):
		return boxlite.Image, hintTooBig
	case isCert:
		return boxlite.Network, "Add the registry's certificate authority to the host's, or set skip_verify for this registry."
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return boxlite.Exhausted, "Free space on the disk of " + c.dir + ", or remove images that no box uses."
	case remote.IsTransient(err):
		return boxlite.Network, "Check the connection to the registry, and whether it speaks HTTP or HTTPS; then try again."
	case isPath, isLink:
		return boxlite.Storage, "Check that " + c.dir + " can be written."
	}
	if _, ok := errors.AsType[unix.Errno](err); ok {
		return boxlite.Storage, "Check the disk of " + c.dir + "."
	}
	return boxlite.Image, hintDamaged
}

func statusMeaning(status int) (boxlite.Kind, string) {
	switch {
	case status == http.StatusNotFound:
		return boxlite.Image, "Check the image's name and tag: the registry does not have it."
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return boxlite.Image, "Check the image's name, or configure a login for this registry: it does not give the image to just anyone."
	case status == http.StatusTooManyRequests:
		return boxlite.Network, "Wait a while, or configure a login: the registry limits how often one may pull."
	case status >= 500:
		return boxlite.Network, "Try again later: the registry has a fault."
	}
	return boxlite.Image, "Check that the address is that of a registry."
}
