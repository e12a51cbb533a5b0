// Package rpcerr carries a [boxlite.Error] through gRPC: the kind, subject and
// hint arrive as they were sent, whatever hops lie between. It knows no
// service.
//
// The error travels as a status with one google.rpc.ErrorInfo: reason is the
// kind, metadata has op, ref, hint and cause. The cause is text, as it is meant
// for logs only.
package rpcerr

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

const (
	domain  = "boxlite"
	longest = 4096 // bytes of one text; headers have a limit
)

// codeOf maps kinds to the nearest status code, for other people's tools; ours
// read the kind itself.
var codeOf = map[boxlite.Kind]codes.Code{
	boxlite.NotFound:        codes.NotFound,
	boxlite.AlreadyExists:   codes.AlreadyExists,
	boxlite.InvalidArgument: codes.InvalidArgument,
	boxlite.Config:          codes.InvalidArgument,
	boxlite.InvalidState:    codes.FailedPrecondition,
	boxlite.Denied:          codes.PermissionDenied,
	boxlite.Exhausted:       codes.ResourceExhausted,
	boxlite.Unsupported:     codes.Unimplemented,
	boxlite.Timeout:         codes.DeadlineExceeded,
	boxlite.Canceled:        codes.Canceled,
}

// Encode returns err as a status error, nil as nil.
func Encode(err error) error {
	if err == nil {
		return nil
	}
	p := boxlite.ProblemOf(err)
	code, ok := codeOf[boxlite.ParseKind(p.Kind)]
	if !ok {
		code = codes.Unknown
	}
	meta := map[string]string{"op": clip(p.Op), "ref": clip(p.Ref), "hint": clip(p.Hint), "cause": clip(p.Cause)}
	st := status.New(code, p.Kind)
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Domain: domain, Reason: p.Kind, Metadata: meta}); err == nil {
		st = detailed
	}
	return st.Err()
}

// clip makes s valid UTF-8, which protobuf demands, and short.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= longest {
		return s
	}
	s = s[:longest]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// Decode returns the error that [Encode] was given. Errors of gRPC itself
// become RpcTransport where the connection is gone, Canceled, Timeout, or Rpc.
func Decode(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == domain {
			return decodeInfo(info)
		}
	}
	e := &boxlite.Error{Op: "call", Kind: boxlite.Rpc, Err: errors.New(st.Message())}
	switch st.Code() {
	case codes.Unavailable:
		e.Kind = boxlite.RpcTransport
	case codes.Canceled:
		e.Kind, e.Err = boxlite.Canceled, context.Canceled
	case codes.DeadlineExceeded:
		e.Kind, e.Err = boxlite.Timeout, context.DeadlineExceeded
	case codes.ResourceExhausted:
		e.Kind = boxlite.Exhausted
	case codes.Unimplemented:
		e.Kind, e.Hint = boxlite.Unsupported, "The other end is of another version: restart it."
	}
	return e
}

func decodeInfo(info *errdetails.ErrorInfo) error {
	m := info.Metadata
	p := &boxlite.Problem{Op: m["op"], Kind: info.Reason, Ref: m["ref"], Hint: m["hint"], Cause: m["cause"]}
	err := p.Err()
	if e, ok := errors.AsType[*boxlite.Error](err); ok && e.Kind == boxlite.Canceled {
		e.Err = context.Canceled
	}
	return err
}

// UnaryServer encodes what handlers fail with.
func UnaryServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	reply, err := handler(ctx, req)
	return reply, Encode(err)
}

// StreamServer encodes what handlers fail with.
func StreamServer(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return Encode(handler(srv, ss))
}

// UnaryClient decodes what calls fail with.
func UnaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return Decode(invoke(ctx, method, req, reply, cc, opts...))
}
