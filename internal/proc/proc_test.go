package proc_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
)

func TestAProcessIsKnownUntilItExits(t *testing.T) {
	self, err := proc.Of(os.Getpid())
	if err != nil || !self.Alive() {
		t.Fatalf("this process is %+v, %v", self, err)
	}
	other := self
	other.Start += "0"
	if other.Alive() || other.Kill(time.Second) != nil {
		t.Error("a process of the same number and another start is taken for this one")
	}

	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	id, err := proc.Of(cmd.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatalf("%+v, %v", id, err)
	}
	if err := id.Kill(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if id.Alive() { // a zombie by now
		t.Error("alive after Kill")
	}
	if err := id.Kill(time.Second); err != nil {
		t.Errorf("the second Kill: %v", err)
	}
	if (proc.ID{}).Alive() {
		t.Error("no process is alive")
	}
}
