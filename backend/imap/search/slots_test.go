package search

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
)

// TestShares: a user with a hundred searches has half of the slots, another the next that is
// free, and nobody more than there are.
func TestShares(t *testing.T) {
	s := NewSlots(4)
	ann, bob := s.Of("ann"), s.Of("bob")
	if s.Of("ann") != ann {
		t.Fatal("two shares of one user")
	}
	ann.Close()
	var waiting sync.WaitGroup
	got := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	for range 100 {
		waiting.Go(func() {
			if ann.take(ctx) == nil {
				got <- struct{}{}
			}
		})
	}
	<-got
	<-got
	for range 2 { // Ann's others wait: if they did not, there would be no more for Bob
		if err := bob.take(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) > 0 || len(s.all) != 4 {
		t.Errorf("Ann has %d more, %d are taken", len(got), len(s.all))
	}
	late, stop := context.WithCancel(t.Context())
	stop()
	if err := bob.take(late); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	bob.give()
	bob.give()
	cancel()
	waiting.Wait()
	for range 2 + len(got) {
		ann.give()
	}
	ann.Close()
	bob.Close()
	if len(s.all) != 0 || len(s.users) != 0 {
		t.Errorf("%d slots and %d users left", len(s.all), len(s.users))
	}
}

// Whatever the number, a user has a slot, and all are used by many users.
func TestAllShares(t *testing.T) {
	for n := 1; n < 6; n++ {
		s := NewSlots(n)
		var all sync.WaitGroup
		for u := range 5 {
			for range 5 {
				all.Go(func() {
					h := s.Of(fmt.Sprint(u))
					defer h.Close()
					for range 200 {
						if err := h.take(t.Context()); err != nil {
							t.Error(err)
						}
						if len(s.all) > n {
							t.Error("too many")
						}
						h.give()
					}
				})
			}
		}
		all.Wait()
		if len(s.users) != 0 || len(s.all) != 0 {
			t.Errorf("%d: %v", n, s.users)
		}
	}
}
