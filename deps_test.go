package boxlite_test

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/boxlite-mcp/boxlite-mcp"

// mayImport is the architecture: for each folder, which other folders of this
// module it may import. The row with the longest matching path counts. "*" is
// all but the test kits, and a folder may always import what lies below it.
// Tests are exempt.
//
//	cmd → tools, prompts → sessions → vmcore → {agent, store, egress → secrets} → boxlite
var mayImport = map[string][]string{
	"": {}, // the words

	"secrets":             {"", "egress/policy"}, // hosts are matched as rules are
	"egress":              {"", "secrets"},
	"egress/policy":       {""}, // decides; knows neither the gateway nor secrets
	"egress/gateway/link": {},   // knows no traffic
	"store":               {""},
	"agent/vmboot":        {}, // words
	"agent":               {"", "internal/proc", "internal/rpcerr", "internal/unixsocket"},

	"vmcore":        {"", "agent", "store", "egress", "secrets", "internal/proc", "internal/rpcerr", "internal/unixsocket"},
	"vmcore/engine": {""}, // engines know nothing of boxes, policies, MCP or images
	// The engine that runs a helper: the contract and how processes are told apart.
	"vmcore/engine/gvisor": {"", "vmcore/engine", "vmcore/engine/child", "vmcore/engine/probe", "internal/proc", "internal/unixsocket"},
	"vmcore/engine/probe":  {"", "vmcore/engine"},
	"vmcore/engine/child":  {""}, // processes, whatever is in them
	// What is the same in every virtual machine, and the engines that boot them.
	"vmcore/engine/vm":   {"", "agent/vmboot", "vmcore/engine"},
	"vmcore/engine/qemu": {"", "agent/vmboot", "vmcore/engine", "vmcore/engine/child", "vmcore/engine/probe", "vmcore/engine/vm", "internal/jail"},
	"internal/jail":      {}, // knows no engine
	"vmcore/enginetest":  {"", "agent", "vmcore/engine", "vmcore/image", "internal/testbin"},
	"vmcore/image":       {""},
	"vmcore/spool":       {""},
	"vmcore/shim":        {"", "agent", "egress", "secrets", "vmcore/engine", "vmcore/spool", "internal/proc", "internal/rpcerr", "internal/unixsocket"},

	"sessions": {"", "vmcore", "store", "secrets", "egress"},
	"tools":    {"", "prompts"}, // what they call is an interface, which others implement
	"prompts":  {""},

	"internal/proc":       {""},
	"internal/rpcerr":     {""},
	"internal/unixsocket": {""},
	"internal/rpc":        {"", "internal/proc", "internal/rpcerr", "internal/unixsocket"},
	"internal/spelling":   {},
	"internal/cli":        {"", "internal/spelling"},
	"internal/listen":     {""}, // who may speak over HTTP; knows no MCP
	"internal/clients":    {""}, // files of MCP clients; knows no server
	// The daemon: sessions, behind the socket that internal/rpc speaks on.
	"internal/daemon": {"", "sessions", "vmcore", "internal/config", "internal/proc", "internal/rpc", "internal/unixsocket"},
	"internal/config": {"", "egress", "secrets", "sessions", "vmcore", "internal/spelling"}, // the operator's words, for those who hold to them

	"cmd":                 {"*"},
	"cmd/boxlite-agent":   {"", "agent"},
	"cmd/boxlite-jail":    {"internal/jail"},
	"cmd/boxlite-sandbox": {"", "vmcore/engine"},

	"internal/testbin":     {},
	"internal/testimage":   {"", "internal/testbin", "vmcore/image"},
	"internal/e2e":         {"*"},                            // tests of the whole
	"internal/conformance": {"", "internal/listen", "tools"}, // no boxes: others' test suites are about the protocol
	"internal/bench":       {"*", "egress/gateway/guesttest", "internal/testcert", "internal/testimage"},
	"internal/mcpb":        {}, // a program that packs the others
	"internal/testcert":    {},
	"internal/testsum":     {},
	"examples":             {"*", "internal/testcert", "internal/testimage"},
}

// mayUse says, for every foreign module, which folders may import it and what
// lies below them. A module that is not here needs a row, and a page in
// docs/decisions.
var mayUse = map[string][]string{
	"golang.org/x/sys":           {"agent", "vmcore", "internal", "cmd", "store", "egress", "secrets", "sessions"},
	"golang.org/x/sync":          {"agent", "vmcore", "internal", "cmd", "store", "egress", "sessions", "tools"},
	"golang.org/x/net":           {"vmcore/image", "egress"},
	"golang.org/x/time":          {"egress"},
	"golang.org/x/term":          {"cmd", "internal/cli"},
	"google.golang.org/grpc":     {"agent", "vmcore", "internal/rpc", "internal/rpcerr", "cmd"},
	"google.golang.org/protobuf": {"agent", "store", "vmcore", "internal/rpc", "internal/rpcerr"},
	// Only its messages for error details, which gRPC itself is made with.
	"google.golang.org/genproto/googleapis/rpc": {"internal/rpcerr"},

	"gvisor.dev/gvisor":                      {"cmd/boxlite-sandbox", "egress"}, // the whole; only its netstack
	"github.com/elazarl/goproxy":             {"egress/intercept"},
	"github.com/opencontainers/runtime-spec": {"cmd/boxlite-sandbox"},
	"github.com/google/subcommands":          {"cmd/boxlite-sandbox"},
	"github.com/dgraph-io/badger/v4":         {"store"},
	"github.com/pelletier/go-toml/v2":        {"internal/clients", "internal/config"},
	"github.com/tailscale/hujson":            {"internal/clients"},
	"go.yaml.in/yaml/v3":                     {"internal/clients"},
	"github.com/mark3labs/mcp-go":            {"tools", "prompts", "cmd", "internal/conformance"},
	"github.com/google/go-containerregistry": {"vmcore/image", "internal/testimage"},
	"github.com/erofs/go-erofs":              {"vmcore/image"},
	"github.com/klauspost/compress":          {"vmcore/image"},
	"github.com/jsimonetti/rtnetlink/v2":     {"agent/guest/vm"},
	"github.com/cavaliergopher/cpio":         {"vmcore/engine/vm"},
	"github.com/creack/pty":                  {"agent", "cmd", "internal/cli"},
	"github.com/spf13/cobra":                 {"cmd", "internal/cli"},
	"github.com/spf13/pflag":                 {"cmd", "internal/cli"},
	"github.com/vbauerster/mpb/v8":           {"cmd", "internal/cli"},
	"github.com/modelcontextprotocol/go-sdk": {"examples", "internal/bench"}, // a third party's client, for demos and tests
	"C":                                      {"vmcore/engine/krun"},
}

// testKits are for tests, and for the commands that show the system at work
// (examples) and how fast it is (internal/bench); no program that is shipped
// contains them.
var testKits = []string{"internal/bench", "internal/cli/clitest", "internal/conformance", "internal/testbin", "internal/testcert", "internal/testimage", "internal/e2e", "egress/gateway/guesttest", "vmcore/enginetest", "vmcore/image/imagetest"}

func TestImportDirection(t *testing.T) {
	for _, goos := range []string{"linux", "darwin"} {
		for pkg, imports := range listImports(t, goos) {
			from, ok := row(pkg, maps.Keys(mayImport))
			if !ok {
				t.Errorf("%s: no row of mayImport is about it", pkg)
				continue
			}
			for _, imp := range imports {
				if problem := checkImport(pkg, from, imp); problem != "" {
					t.Errorf("GOOS=%s: folder %q must not import %q: %s", goos, pkg, imp, problem)
				}
			}
		}
	}
}

// checkImport returns why the package in the folder pkg, which the given row
// of mayImport is about, may not import imp, or "".
func checkImport(pkg, row, imp string) string {
	first, _, _ := strings.Cut(imp, "/")
	if folder, ours := folderOf(imp); ours {
		return checkOurs(pkg, row, folder)
	}
	if !strings.Contains(first, ".") && imp != "C" {
		return "" // the standard library
	}
	owner, ok := "", false
	for mod := range mayUse {
		if within(imp, mod) && len(mod) > len(owner) {
			owner, ok = mod, true
		}
	}
	switch {
	case !ok:
		return "the module is in no row of mayUse"
	case !slices.ContainsFunc(mayUse[owner], func(f string) bool { return within(pkg, f) }):
		return "mayUse allows it to " + strings.Join(mayUse[owner], ", ")
	}
	return ""
}

func checkOurs(pkg, row, folder string) string {
	allowed := mayImport[row]
	isKit := func(f string) bool {
		return slices.ContainsFunc(testKits, func(kit string) bool { return within(f, kit) })
	}
	named := slices.ContainsFunc(allowed, func(f string) bool { return f != "*" && (f == folder || f != "" && within(folder, f)) })
	switch {
	case isKit(folder) && !isKit(pkg) && !within(pkg, "examples"):
		return "it is a test kit"
	case folder == row, row != "" && within(folder, row), named, slices.Contains(allowed, "*"):
		return ""
	}
	return "mayImport allows " + strings.Join(allowed, ", ")
}

// row returns the longest of rows that the folder lies in.
func row(folder string, rows func(func(string) bool)) (best string, ok bool) {
	for r := range rows {
		if (r == folder || r != "" && within(folder, r)) && len(r) >= len(best) {
			best, ok = r, true
		}
	}
	return best, ok
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// folderOf returns the folder of one of our packages.
func folderOf(importPath string) (folder string, ours bool) {
	if importPath == module {
		return "", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// listImports returns the imports of every package of the module, without
// those of tests, by folder.
func listImports(t *testing.T, goos string) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...")
	cmd.Env = append(os.Environ(), "GOOS="+goos)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		folder, _ := folderOf(fields[0])
		all[folder] = fields[1:]
	}
	if len(all) < 5 {
		t.Fatalf("only %d packages: %v", len(all), all)
	}
	return all
}

// The test above must be able to fail.
func TestImportRulesRefuse(t *testing.T) {
	for _, c := range []struct{ pkg, imp string }{
		{"", module + "/vmcore"},
		{"", "golang.org/x/sys/unix"},
		{"store", module + "/vmcore"},
		{"agent/guest", module + "/vmcore/engine"},
		{"vmcore", module + "/sessions"},
		{"vmcore/engine", module + "/agent"},
		{"vmcore/engine/gvisor", "gvisor.dev/gvisor/pkg/log"},
		{"vmcore/engine/gvisor", module + "/vmcore/image"},
		{"vmcore/shim", module + "/vmcore"},
		{"sessions", "github.com/mark3labs/mcp-go/mcp"},
		{"sessions", "github.com/dgraph-io/badger/v4"},
		{"tools", module + "/sessions"},
		{"cmd/boxlite-mcp", "gvisor.dev/gvisor/runsc/cli"},
		{"cmd/boxlite-mcp", module + "/internal/testbin"},
		{"cmd/boxlite-mcp", module + "/vmcore/image/imagetest"},
		{"cmd/boxlite-agent", module + "/vmcore"},
		{"egress", "example.com/unheard/of"},
		{"egress/policy", module + "/egress"},
		{"egress/policy", module + "/secrets"},
		{"vmcore", "C"},
	} {
		r, ok := row(c.pkg, maps.Keys(mayImport))
		if !ok || checkImport(c.pkg, r, c.imp) == "" {
			t.Errorf("folder %q may import %s (row %q, found: %v)", c.pkg, c.imp, r, ok)
		}
	}
	if r, ok := row("unheard/of", maps.Keys(mayImport)); ok {
		t.Errorf("a new folder falls under row %q", r)
	}
}
