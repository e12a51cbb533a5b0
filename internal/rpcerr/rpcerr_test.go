package rpcerr_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpcerr"
)

func TestAnErrorArrivesAsItWasSent(t *testing.T) {
	for k := boxlite.Internal; !strings.HasPrefix(k.String(), "Kind("); k++ {
		sent := fmt.Errorf("outer: %w", &boxlite.Error{Op: "start box", Kind: k, Ref: "b\xff1", Hint: "Call box_list.", Err: errors.New("why")})
		got, ok := errors.AsType[*boxlite.Error](rpcerr.Decode(rpcerr.Encode(sent)))
		if !ok || got.Kind != k || got.Op != "start box" || got.Ref != "b\uFFFD1" || got.Hint != "Call box_list." {
			t.Errorf("%s arrived as %+v", k, got)
		}
		if twice := rpcerr.Decode(rpcerr.Encode(got)); twice.Error() != got.Error() {
			t.Errorf("the second hop made %q of %q", twice, got)
		}
	}
}

func TestWhatGRPCSaysItselfHasAKind(t *testing.T) {
	for code, want := range map[codes.Code]boxlite.Kind{
		codes.Unavailable: boxlite.RpcTransport, codes.Canceled: boxlite.Canceled,
		codes.DeadlineExceeded: boxlite.Timeout, codes.Internal: boxlite.Rpc,
	} {
		if got := boxlite.KindOf(rpcerr.Decode(status.Error(code, "x"))); got != want {
			t.Errorf("%s is %s, want %s", code, got, want)
		}
	}
	if err := rpcerr.Decode(rpcerr.Encode(context.Canceled)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancel arrived as %v", err)
	}
	if rpcerr.Encode(nil) != nil || rpcerr.Decode(nil) != nil {
		t.Error("no error became one")
	}
}

func TestAHugeErrorIsCut(t *testing.T) {
	err := rpcerr.Encode(&boxlite.Error{Kind: boxlite.Run, Err: errors.New(strings.Repeat("é", 1<<20))})
	if n := len(rpcerr.Decode(err).Error()); n > 8192 {
		t.Errorf("%d bytes", n)
	}
}
