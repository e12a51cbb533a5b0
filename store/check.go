package store

import (
	"errors"
	"fmt"
	"slices"
)

// An Invariant says what is wrong with the database, nil if nothing is. It
// only reads.
type Invariant func(tx *Tx) error

type check struct {
	name string
	fn   Invariant
}

// AddInvariant adds one to what [DB.Check] asks. Each table brings its own:
// every record decodes, every index entry points to a record and back.
func (db *DB) AddInvariant(name string, fn Invariant) {
	db.checkMu.Lock()
	defer db.checkMu.Unlock()
	db.checks = append(db.checks, check{name, fn})
}

// Check asks every invariant, and whether the database has what its seal says,
// on one snapshot. It returns all violations, joined. It reads every record:
// tests call it after every step, a doctor once.
func (db *DB) Check() error {
	db.checkMu.Lock()
	checks := slices.Clip(db.checks)
	db.checkMu.Unlock()
	return db.View(func(tx *Tx) error {
		var bad problems
		bad.add(guard(func() error { _, err := checkSeal(tx.txn); return err }))
		for _, c := range checks {
			if err := c.fn(tx); err != nil {
				bad.add(fmt.Errorf("%s: %w", c.name, err))
			}
		}
		return classify("check database", "", bad.err())
	})
}

// problems collects what is wrong.
type problems struct {
	errs []error
	more int
}

// add keeps err if it is not nil and not one of too many.
func (p *problems) add(err error) {
	const enough = 20
	switch {
	case err == nil:
	case len(p.errs) < enough:
		p.errs = append(p.errs, err)
	default:
		p.more++
	}
}

func (p *problems) err() error {
	if p.more > 0 {
		return errors.Join(append(p.errs, fmt.Errorf("and %d more", p.more))...)
	}
	return errors.Join(p.errs...)
}
