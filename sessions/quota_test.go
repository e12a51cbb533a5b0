package sessions // what was allowed and is not seen yet is inside

import (
	"sync"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// accountant returns a session with limits, over an empty home.
func accountant(t *testing.T, limits Limits) *Session {
	t.Helper()
	rt, err := vmcore.Open(t.Context(), vmcore.Options{Home: t.TempDir(), Programs: vmcore.Programs{Helper: "/bin/false", Sandbox: "/bin/false", Jail: "/bin/false", Agent: "/bin/false"}})
	if err != nil {
		t.Fatal(err)
	}
	p := DefaultPolicy()
	p.Limits = limits
	m := New(rt, Options{Policy: &p})
	t.Cleanup(func() {
		m.Close()
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := m.Open(Client{Principal: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Session) mustMake(t *testing.T) *vmcore.Box {
	t.Helper()
	box, err := s.create(t.Context(), boxlite.CreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// What is allowed counts from then on, although there is nothing to be seen yet;
// what is given up does not.
func TestABoxCountsFromWhenItIsAllowed(t *testing.T) {
	t.Parallel()
	s := accountant(t, Limits{Boxes: 2, DiskGB: 25})
	admit := func(gb int) (func(), error) {
		return s.admitBox(boxlite.NewBoxID(), boxlite.BoxOptions{CPUs: 1, MemoryMiB: 64, DiskSizeGB: gb})
	}
	first, err := admit(10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admit(16); boxlite.KindOf(err) != boxlite.Exhausted {
		t.Errorf("26 GiB of 25: %v", err)
	}
	second, err := admit(15)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admit(0); boxlite.KindOf(err) != boxlite.Exhausted {
		t.Errorf("a third of two: %v", err)
	}
	first()
	second()
	s.mustMake(t)
	s.mustMake(t)
	if _, err := admit(0); boxlite.KindOf(err) != boxlite.Exhausted {
		t.Errorf("a third beside two that there are: %v", err)
	}
}

func TestABoxRunsFromWhenItIsAllowedTo(t *testing.T) {
	t.Parallel()
	s := accountant(t, Limits{CPUs: 5, MemoryMiB: 1100})
	a, b, c := s.mustMake(t), s.mustMake(t), s.mustMake(t) // of 2 CPUs and 512 MiB each
	first, err := s.admitStart(a)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.admitStart(a) // by another caller: it is the same box
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.admitStart(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.admitStart(c); boxlite.KindOf(err) != boxlite.Exhausted {
		t.Errorf("6 CPUs of 5: %v", err)
	}
	first()
	if _, err := s.admitStart(c); boxlite.KindOf(err) != boxlite.Exhausted {
		t.Errorf("one of two callers gave up: %v", err)
	}
	again()
	third, err := s.admitStart(c)
	if err != nil {
		t.Errorf("both gave up: %v", err)
	} else {
		third()
	}
	second()
}

// However calls overlap, no more is ever allowed at once than may be.
func TestNoMoreIsAllowedThanMayBe(t *testing.T) {
	t.Parallel()
	s := accountant(t, Limits{Boxes: 5})
	var wg sync.WaitGroup
	var mu sync.Mutex
	now, most := 0, 0
	for range 40 {
		wg.Go(func() {
			for range 200 {
				release, err := s.admitBox(boxlite.NewBoxID(), boxlite.BoxOptions{})
				if err != nil {
					continue
				}
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				mu.Lock()
				now--
				mu.Unlock()
				release()
			}
		})
	}
	wg.Wait()
	if most > 5 || most == 0 {
		t.Errorf("%d were allowed at once", most)
	}
	if n := len(s.m.account("alice").boxes); n != 0 {
		t.Errorf("%d are still counted", n)
	}
}
