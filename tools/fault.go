package tools

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A fault is an error as the model is told of it. It replaces the text that
// would be made of its cause.
type fault struct {
	message string // one or two sentences, without the next step
	hint    string // the next step; "": the cause's
	cause   error  // decides the kind
}

func (f *fault) Error() string { return f.message }
func (f *fault) Unwrap() error { return f.cause }

// A faultView is what programs are told of an error.
type faultView struct {
	Error faultFields `json:"error"`
}

type faultFields struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// failure returns the result for an error. The chain of an unclassified error
// stays here: reference is what the operator finds it by.
func failure(err error, reference string) result {
	kind := boxlite.KindOf(err)
	message, hint := explain(err, reference)
	text := message
	if hint != "" {
		text += " " + hint
	}
	return result{
		text:       text,
		structured: faultView{faultFields{Kind: kind.String(), Message: message, Hint: hint}},
		isError:    true,
	}
}

func explain(err error, reference string) (message, hint string) {
	kind := boxlite.KindOf(err)
	hint = oneLine(boxlite.HintOf(err), 500)
	if f, ok := errors.AsType[*fault](err); ok {
		message = f.message
		if f.hint != "" {
			hint = f.hint
		}
	} else {
		message = describe(err, kind)
	}
	if hint == "" {
		hint = defaultHint(kind, reference)
	}
	return message, hint
}

// describe says what failed: "Cannot start box "dev": image error: no such tag."
func describe(err error, kind boxlite.Kind) string {
	var b strings.Builder
	e, ok := errors.AsType[*boxlite.Error](err)
	if ok && e.Op != "" {
		b.WriteString("Cannot " + oneLine(e.Op, 80))
		if e.Ref != "" {
			b.WriteString(" " + quoteText(strings.Trim(e.Ref, `"`), 200))
		}
		b.WriteString(": ")
	}
	b.WriteString(kind.Error())
	if ok && e.Err != nil && tellable(kind) && !aboutHost(e.Err) {
		b.WriteString(": " + oneLine(e.Err.Error(), 400))
	}
	s := strings.TrimRight(b.String(), ". ")
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// tellable reports whether the cause of an error of this kind is about what the
// caller asked for, rather than about the host's inside.
func tellable(kind boxlite.Kind) bool {
	switch kind {
	case boxlite.InvalidArgument, boxlite.Config, boxlite.InvalidState, boxlite.AlreadyExists, boxlite.NotFound,
		boxlite.Run, boxlite.Image, boxlite.Denied, boxlite.Unsupported, boxlite.UnsupportedEngine, boxlite.Exhausted:
		return true
	}
	return false
}

// aboutHost reports whether err carries an error of the host's system calls,
// whose text has host paths in it.
func aboutHost(err error) bool {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*os.LinkError](err); ok {
		return true
	}
	_, ok := errors.AsType[*os.SyscallError](err)
	return ok
}

func defaultHint(kind boxlite.Kind, reference string) string {
	switch kind {
	case boxlite.RpcTransport, boxlite.Rpc:
		return "The service was restarted or is busy: call again. Boxes and commands are not lost; box_list shows them."
	case boxlite.Timeout:
		return "Call again; box_get shows what state the box is in."
	case boxlite.Canceled:
		return "The wait was ended, not the work; box_get shows what state the box is in."
	case boxlite.Exhausted:
		return "Stop or remove boxes that are not needed (box_list, box_stop, box_remove), or ask for less."
	case boxlite.Portal:
		return "The box does not answer: call box_get, then box_stop and box_start."
	case boxlite.InvalidState:
		return "Call box_get to see its state."
	case boxlite.Image:
		return "Check the image reference; image_list shows what is in the cache."
	case boxlite.Denied:
		return "The operator's policy does not allow this; tell the user."
	case boxlite.Internal, boxlite.Storage, boxlite.Database, boxlite.MetadataError, boxlite.Engine:
		return "Try once more; if it fails again, tell the user. The log has the details under " + reference + "."
	}
	return ""
}

// boxFault explains an error about the box that ref names.
func (c *call) boxFault(ctx context.Context, ref string, err error) error {
	switch boxlite.KindOf(err) {
	case boxlite.NotFound:
		return &fault{
			message: "box " + quoteText(ref, 80) + " not found. " + c.existing(ctx),
			hint:    "Call box_list, or box_create.",
			cause:   err,
		}
	case boxlite.InvalidArgument:
		if boxlite.HintOf(err) == "" {
			return &fault{
				message: describe(err, boxlite.InvalidArgument),
				hint:    "Give the whole id, or the name; box_list shows both.",
				cause:   err,
			}
		}
	}
	return err
}

// existing names some boxes, for a caller that named none of them.
func (c *call) existing(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	page, err := c.svc.ListBoxes(ctx, boxlite.ListRequest{Limit: 10})
	if err != nil {
		return ""
	}
	if len(page.Boxes) == 0 {
		return "There are no boxes."
	}
	var names []string
	for _, b := range page.Boxes {
		if b.Name != "" {
			names = append(names, oneLine(b.Name, 80))
		} else {
			names = append(names, string(b.ID))
		}
	}
	more := ""
	if page.Total > len(names) {
		more = fmt.Sprintf(" and %d more", page.Total-len(names))
	}
	return "Existing boxes: " + strings.Join(names, ", ") + more + "."
}

// execFault explains an error about an execution.
func execFault(id string, err error) error {
	if boxlite.KindOf(err) != boxlite.NotFound {
		return err
	}
	return &fault{
		message: "execution " + quoteText(id, 80) + " not found. Its box was removed, or its output made room for that of later commands.",
		hint:    "Call box_get to see the executions of a box, or box_exec to run the command again.",
		cause:   err,
	}
}

// fileFault explains an error about a file in a box.
func fileFault(box, path string, err error) error {
	if boxlite.KindOf(err) != boxlite.NotFound {
		return err
	}
	return &fault{
		message: "file " + quoteText(path, 200) + " not found in box " + quoteText(box, 80) + ".",
		hint:    `Call box_exec with command "ls -la" on its directory.`,
		cause:   err,
	}
}
