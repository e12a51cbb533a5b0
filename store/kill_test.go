package store_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/store"
)

// writeForever is the child that is killed: each transaction changes two
// tables and, large enough to fill a log now and then, is printed once it is
// acknowledged.
func writeForever(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	db, err := store.Open(dir, store.Options{})
	fail(err)
	boxes, leases := boxTable(db), store.NewTable(db, "leases", store.TableOptions[box]{})
	n, err := boxes.Len()
	fail(err)
	fmt.Println("open", n)
	for {
		key := strconv.Itoa(n)
		fail(db.Update(context.Background(), func(tx *store.Tx) error {
			if err := boxes.In(tx).Insert(key, box{"local", "name-" + key, n}); err != nil {
				return err
			}
			return leases.In(tx).Insert(key, box{Principal: string(make([]byte, n%7*1500)), N: n})
		}))
		n++
		fmt.Println("done", n)
	}
}

// TestKillLosesNothing kills a writer many times: what it printed is there,
// and of no transaction there is one half.
func TestKillLosesNothing(t *testing.T) {
	dir, total := t.TempDir(), 0
	for round := range 30 {
		acked := killedWriter(t, dir, time.Duration(round*round%37)*3*time.Millisecond)
		db := opened(t, dir)
		boxes, leases := boxTable(db), store.NewTable(db, "leases", store.TableOptions[box]{})
		n, err := boxes.Len()
		must(t, err)
		m, err := leases.Len()
		must(t, err)
		if n != m || n < acked || n > acked+1 {
			t.Fatalf("round %d: %d boxes, %d leases, acknowledged %d", round, n, m, acked)
		}
		if round%3 == 0 { // else leave it as the kill did for the next
			shut(t, db)
		} else {
			must(t, db.Check())
			must(t, db.Close())
		}
		total = n
	}
	t.Logf("%d transactions in 30 lives", total)
}

// killedWriter runs a writer for a while after it opened, kills it, and
// returns how many records it said there are.
func killedWriter(t *testing.T, dir string, life time.Duration) (acked int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "STORE_TEST_WRITER="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var what string
		if _, err := fmt.Sscan(lines.Text(), &what, &acked); err != nil {
			break // the kill cut a line
		}
		if what == "open" {
			defer time.AfterFunc(life, func() { cmd.Process.Kill() }).Stop()
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the writer ended by itself: %v", err)
	}
	return acked
}

// TestKillWhileOpening kills a process at any moment of making a database and
// opening it.
func TestKillWhileOpening(t *testing.T) {
	dir := t.TempDir()
	for round := range 25 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "STORE_TEST_WRITER="+dir)
		must(t, cmd.Start())
		time.Sleep(time.Duration(round) * 2 * time.Millisecond)
		must(t, cmd.Process.Kill())
		cmd.Wait()
	}
	db := opened(t, dir)
	boxTable(db)
	shut(t, db)
}

func TestOwnerIsNamed(t *testing.T) {
	dir := t.TempDir()
	db := opened(t, dir)
	defer shut(t, db)
	_, err := store.Open(dir, store.Options{})
	wantKind(t, "second Open", err, boxlite.InvalidState)
	if want := fmt.Sprintf("process %d has it open", os.Getpid()); boxlite.HintOf(err) == "" || !contains(err, want) {
		t.Errorf("%v: want %q and a hint", err, want)
	}
	_, err = store.Quarantine(dir)
	wantKind(t, "Quarantine in use", err, boxlite.InvalidState)
}

// TestAFirstTransactionCutOffIsNoDamage has a process killed in the middle of
// its first transaction after the database was closed in order: all that was
// acknowledged is in tables, and the log holds nothing whole.
func TestAFirstTransactionCutOffIsNoDamage(t *testing.T) {
	dir := t.TempDir()
	db := opened(t, dir)
	for i := range 3 {
		must(t, boxTable(db).Insert(t.Context(), strconv.Itoa(i), box{Name: strconv.Itoa(i)}))
	}
	must(t, db.Close())
	db = opened(t, dir)
	acked, err := os.ReadFile(filepath.Join(dir, "acked"))
	must(t, err)
	must(t, boxTable(db).Insert(t.Context(), "cut", box{Name: "cut"}))

	crashed := filepath.Join(t.TempDir(), "db") // as a kill would leave it
	must(t, os.Mkdir(crashed, 0o700))
	copyDir(t, dir, crashed)
	must(t, db.Close())
	must(t, os.WriteFile(filepath.Join(crashed, "acked"), acked, 0o600))
	logs, err := filepath.Glob(filepath.Join(crashed, "*.mem"))
	must(t, err)
	for _, log := range logs {
		data, err := os.ReadFile(log)
		must(t, err)
		clear(data[min(60, len(data)):])
		must(t, os.WriteFile(log, data, 0o600))
	}
	db = opened(t, crashed)
	if n, err := boxTable(db).Len(); err != nil || n != 3 {
		t.Errorf("%d records, %v; want the 3 that were acknowledged", n, err)
	}
	shut(t, db)
}
