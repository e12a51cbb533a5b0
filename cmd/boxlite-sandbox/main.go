// Command boxlite-sandbox is a gVisor sandbox: the program that package
// vmcore/engine/gvisor starts for every machine. It is not run by hand.
//
// It is gVisor's runsc reduced to what becomes the sandbox's process: "boot",
// and "umount", which boot starts for a moment to let go of /proc. Namespaces,
// descriptors and limits are arranged by the engine before.
//
// With LIFELINE=N in the environment, descriptor N is the reading end of a pipe
// whose other end only the engine's process holds. boot waits for one byte on
// it before it does anything, and the process ends when that end is closed,
// however its owner died.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		fmt.Println(gvisorVersion())
		return
	}
	if dynamic {
		fmt.Fprintln(os.Stderr, "boxlite-sandbox: built with cgo, which does not work in a sandbox; build it with CGO_ENABLED=0, as make build does")
		os.Exit(1)
	}
	if err := followLifeline(); err != nil {
		fmt.Fprintln(os.Stderr, "boxlite-sandbox:", err)
		os.Exit(1)
	}
	cli.Run(nil, map[util.SubCommand]string{
		new(sentrycmd.Boot):   "",
		new(sentrycmd.Umount): "",
	}, nil)
}

// gvisorVersion returns the version of the gVisor module that is linked in.
func gvisorVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "gvisor.dev/gvisor" {
				return m.Version
			}
		}
	}
	return "unknown"
}
