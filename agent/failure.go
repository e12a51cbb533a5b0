package agent

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpcerr"
	"google.golang.org/grpc/status"
)

// guestKinds are the kinds that a guest may give an error. Anything else it
// says means that it does not work.
var guestKinds = map[boxlite.Kind]bool{
	boxlite.Run: true, boxlite.NotFound: true, boxlite.AlreadyExists: true, boxlite.InvalidArgument: true,
	boxlite.InvalidState: true, boxlite.Denied: true, boxlite.Exhausted: true,
}

// fail returns what err, of a call under ctx, means to the caller; nil for nil.
// The operation and subject are ours; kind, hint and cause may be the guest's.
func (c *Client) fail(ctx context.Context, op, ref string, err error) error {
	if err == nil {
		return nil
	}
	e := &boxlite.Error{Op: op, Ref: ref, Kind: boxlite.Portal}
	if ctxErr := ctx.Err(); ctxErr != nil && !errors.Is(context.Cause(ctx), errGone) {
		e.Kind, e.Err = boxlite.KindOf(ctxErr), ctxErr
		return e
	}
	if c.life.Err() != nil {
		return gone(op, ref)
	}
	decoded, ok := errors.AsType[*boxlite.Error](rpcerr.Decode(err))
	if !ok {
		e.Err = errors.New(tame(err.Error(), 512))
		return e
	}
	if decoded.Kind == boxlite.RpcTransport { // before the connection's end was noticed
		return gone(op, ref)
	}
	if at, ok := ctx.Deadline(); ok && decoded.Kind == boxlite.Timeout && time.Until(at) < time.Second { // the guest's clock was first
		e.Kind, e.Err = boxlite.Timeout, context.DeadlineExceeded
		return e
	}
	if st, _ := status.FromError(err); len(st.Proto().GetDetails()) > 0 && guestKinds[decoded.Kind] { // else gRPC has classified it
		e.Kind, e.Hint = decoded.Kind, tame(decoded.Hint, 256)
	}
	if decoded.Err != nil {
		e.Err = errors.New(tame(decoded.Err.Error(), 1024))
	}
	return e
}

func gone(op, ref string) error {
	return &boxlite.Error{Op: op, Kind: boxlite.RpcTransport, Ref: ref, Err: errGone}
}

// tame makes text of a guest safe to show: at most limit bytes, one line,
// without what a terminal would act on.
func tame(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s[:min(len(s), 4*limit)])
	if len(s) <= limit {
		return s
	}
	s = s[:limit]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// clipRef returns s cut to what fits an error's subject.
func clipRef(s string) string { return tame(s, 80) }
