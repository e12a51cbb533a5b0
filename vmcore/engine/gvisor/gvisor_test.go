package gvisor_test

import (
	"os"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/gvisor"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/enginetest"
)

// What a copy of the test program runs with that may not be able to build.
const (
	sandboxVar = "GVISORTEST_SANDBOX"
	agentVar   = "GVISORTEST_AGENT"
	toolVar    = "GVISORTEST_TOOL"
	baseVar    = "GVISORTEST_BASE"
	weakVar    = "GVISORTEST_NOCGROUPS"
)

func TestMain(m *testing.M) {
	enginetest.Main(m, func() engine.Engine {
		return gvisor.New(gvisor.Options{Sandbox: os.Getenv(sandboxVar), Agent: os.Getenv(agentVar), NoCgroups: os.Getenv(weakVar) != ""})
	})
}

// program returns the path of a program of the module.
func program(t *testing.T, variable, name string) string {
	t.Helper()
	if os.Getenv(variable) == "" {
		os.Setenv(variable, testbin.Path(t, name)) // for the copies
	}
	return os.Getenv(variable)
}

func TestContract(t *testing.T) {
	agent := program(t, agentVar, "boxlite-agent")
	e := gvisor.New(gvisor.Options{
		Sandbox:   program(t, sandboxVar, "boxlite-sandbox"),
		Agent:     agent,
		NoCgroups: os.Getenv(weakVar) != "",
		DebugLog:  os.Getenv("GVISORTEST_DEBUG"),
	})
	enginetest.Run(t, e, enginetest.Config{Agent: agent, Base: os.Getenv(baseVar), Tool: os.Getenv(toolVar)})
}
