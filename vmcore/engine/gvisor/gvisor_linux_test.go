package gvisor_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/gvisor"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/enginetest"
)

// What copies of the test program are told by their environment: files that
// they may not be able to build, and how to behave.
const (
	sandboxVar   = "GVISORTEST_SANDBOX"
	agentVar     = "GVISORTEST_AGENT"
	toolVar      = "GVISORTEST_TOOL"
	baseVar      = "GVISORTEST_BASE"
	noCgroupsVar = "GVISORTEST_NOCGROUPS"
	debugVar     = "GVISORTEST_DEBUG" // a directory, also for people
)

func TestMain(m *testing.M) {
	enginetest.Main(m, func() engine.Engine { return newEngine() })
}

// newEngine returns the engine that the environment describes.
func newEngine() *gvisor.Engine {
	return gvisor.New(gvisor.Options{
		Sandbox:   os.Getenv(sandboxVar),
		Agent:     os.Getenv(agentVar),
		NoCgroups: os.Getenv(noCgroupsVar) != "",
		DebugLog:  os.Getenv(debugVar),
	})
}

// build puts what a test needs into its environment, unless it is there.
func build(t testing.TB) {
	t.Helper()
	for variable, program := range map[string]string{sandboxVar: "boxlite-sandbox", agentVar: "boxlite-agent"} {
		if os.Getenv(variable) == "" {
			t.Setenv(variable, testbin.Path(t, program))
		}
	}
	if os.Getenv(toolVar) == "" {
		t.Setenv(toolVar, enginetest.Tool(t))
		t.Setenv(baseVar, enginetest.Base(t, os.Getenv(toolVar)))
	}
}

// TestContract runs the suite as whoever runs the tests.
func TestContract(t *testing.T) {
	build(t)
	enginetest.Run(t, newEngine(), enginetest.Config{
		Agent: os.Getenv(agentVar), Tool: os.Getenv(toolVar), Base: os.Getenv(baseVar)})
}

// TestContractWithoutCgroups runs it with a watchdog in place of hard limits.
func TestContractWithoutCgroups(t *testing.T) {
	build(t)
	t.Setenv(noCgroupsVar, "1")
	enginetest.Run(t, newEngine(), enginetest.Config{
		Agent: os.Getenv(agentVar), Tool: os.Getenv(toolVar), Base: os.Getenv(baseVar)})
}

// TestContractAsOrdinaryUser runs it as a user who is nobody, from a copy of
// the test program.
func TestContractAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the other tests run as an ordinary user already")
	}
	build(t)
	dir, err := os.MkdirTemp("", "gvisortest-") //nolint:usetesting // below t.TempDir the user may not go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	home := filepath.Join(dir, "tmp")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	const user = 64321
	if err := os.Chown(home, user, user); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"TMPDIR=" + home, "PATH=" + os.Getenv("PATH"), "CI=" + os.Getenv("CI")}
	for _, v := range []string{sandboxVar, agentVar, toolVar, baseVar} {
		env = append(env, v+"="+copyFile(t, os.Getenv(v), dir))
	}
	cmd := exec.Command(copyFile(t, os.Args[0], dir), "-test.run=^TestContract$", "-test.v")
	cmd.Dir, cmd.Env = home, env
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: user, Gid: user},
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP: TestContract ")) {
		t.Skipf("%s", out)
	}
	t.Logf("%s", out)
}

// copyFile copies a file into dir, for everybody to read and execute.
func copyFile(t *testing.T, path, dir string) string {
	t.Helper()
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	name := filepath.Join(dir, filepath.Base(path))
	to, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	return name
}
