package backend

import (
	"fmt"
	"testing"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/census"
)

func TestCensus(t *testing.T) {
	r := newRig(t, "b1")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d1", "hello\r\n"))
	var got census.Reply
	eventually(t, "the mailboxes are added up", func() (err error) {
		got, err = call[census.Reply](r, r.mover, "b1", census.Path, census.Request{Limit: 10})
		return err
	})
	if got.Totals.Users != 1 || len(got.Users) != 1 || got.More || got.Totals.AsOf == 0 || got.Totals.CapacityBytes == 0 {
		t.Fatalf("%+v", got)
	}
	eventually(t, "the delivery is seen", func() error {
		got, err := call[census.Reply](r, r.mover, "b1", census.Path, census.Request{Limit: 10})
		if err == nil && (got.Users[0].User != alice || got.Users[0].Messages != 1 || got.Users[0].Bytes == 0 || got.Users[0].LastActive == 0) {
			err = fmt.Errorf("%+v", got)
		}
		return err
	})
	for _, c := range []struct {
		req  census.Request
		n    int
		more bool
	}{{census.Request{}, 0, true}, {census.Request{After: alice, Limit: 5}, 0, false}, {census.Request{Limit: -1}, 0, true}, {census.Request{After: director.User("a"), Limit: 1}, 1, false}} {
		got, err := call[census.Reply](r, r.mover, "b1", census.Path, c.req)
		if err != nil || len(got.Users) != c.n || got.More != c.more {
			t.Errorf("%+v: %+v, %v", c.req, got, err)
		}
	}
	if _, err := call[census.Reply](r, r.admin, "b1", census.Path, census.Request{}); !control.IsCode(err, control.CodeForbidden) {
		t.Error(err)
	}
}
