// Command boxlite-jail makes a jail in the namespaces it is started in, and
// becomes the program in it: package jail. Engines start it for the processes
// that are virtual machines; it is not run by hand.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/boxlite-mcp/boxlite-mcp/internal/jail"
)

func main() {
	err := errors.New("usage: boxlite-jail SPEC")
	if len(os.Args) == 2 {
		err = jail.Enter(os.Args[1])
	}
	fmt.Fprintln(os.Stderr, "boxlite-jail:", err)
	os.Exit(1)
}
