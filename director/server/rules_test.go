package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// Forwards and replies are set, shown, kept by other changes, and taken away.
func TestForwardAndReply(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.domain("example.test")
	ctx := t.Context()
	reply := director.AutoReply{Kind: director.ReplyVacation, Subject: "gone", Text: "until august", From: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC), Days: 3}
	u := must(w.client.CreateUser(ctx, admin.CreateUser{User: "ann@example.test", Forward: []string{"Bob+X@Example.test", "Eve/x@Gmail.TEST"}, Reply: &reply}))(t)
	if strings.Join(u.Forward, " ") != "bob+X@example.test Eve/x@gmail.test" || u.ForwardOnly || u.Reply == nil || *u.Reply != reply {
		t.Fatalf("created %+v", u)
	}
	if u := w.user("bob@example.test", ""); u.Forward == nil || len(u.Forward) > 0 || u.Reply != nil {
		t.Errorf("a user without any: %+v", u)
	}
	u = must(w.client.UpdateUser(ctx, "ann@example.test", admin.UpdateUser{ForwardOnly: ptr(true)}))(t)
	if len(u.Forward) != 2 || !u.ForwardOnly || u.Reply == nil {
		t.Errorf("only: %+v", u)
	}
	u = must(w.client.UpdateUser(ctx, "ann@example.test", admin.UpdateUser{Forward: ptr([]string{"bob@example.test"}), QuotaBytes: ptr(gib)}))(t)
	if strings.Join(u.Forward, " ") != "bob@example.test" || !u.ForwardOnly || u.QuotaBytes != gib {
		t.Errorf("another: %+v", u)
	}
	u = must(w.client.UpdateUser(ctx, "ann@example.test", admin.UpdateUser{Forward: ptr([]string{}), ForwardOnly: ptr(false), Reply: &director.AutoReply{}}))(t)
	if len(u.Forward) != 0 || u.ForwardOnly || u.Reply != nil {
		t.Errorf("taken away: %+v", u)
	}
	stored := must(w.dir.Account(ctx, "ann@example.test"))(t).Value
	if len(stored.Forward) != 0 || stored.ForwardOnly || stored.Reply != nil || stored.QuotaBytes != gib {
		t.Errorf("stored %+v", stored)
	}
}

func TestForwardAndReplyRefusals(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.domain("example.test")
	w.user("ann@example.test", "")
	for name, c := range map[string]struct {
		req  admin.UpdateUser
		text string
	}{
		"no address":     {admin.UpdateUser{Forward: ptr([]string{"bob"})}, "bob"},
		"no mail domain": {admin.UpdateUser{Forward: ptr([]string{"bob@gmail"})}, "no domain of mail"},
		"not ours":       {admin.UpdateUser{Forward: ptr([]string{"b/b@example.test"})}, "character"},
		"only to nobody": {admin.UpdateUser{ForwardOnly: ptr(true)}, "nobody"},
		"too many":       {admin.UpdateUser{Forward: ptr(strings.Fields(strings.Repeat("bob@example.test ", director.MaxForwards+1)))}, "alias"},
		"no text":        {admin.UpdateUser{Reply: &director.AutoReply{Kind: director.ReplyAlways}}, "without a text"},
		"no such kind":   {admin.UpdateUser{Reply: &director.AutoReply{Kind: "x", Text: "x"}}, "kind"},
	} {
		_, err := w.client.UpdateUser(t.Context(), "ann@example.test", c.req)
		if !errors.Is(err, director.ErrInvalid) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		create := admin.CreateUser{User: "new@example.test", Reply: c.req.Reply, ForwardOnly: c.req.ForwardOnly != nil}
		if c.req.Forward != nil {
			create.Forward = *c.req.Forward
		}
		if _, err := w.client.CreateUser(t.Context(), create); !errors.Is(err, director.ErrInvalid) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("create, %s: %v", name, err)
		}
	}
	if u := must(w.client.User(t.Context(), "ann@example.test"))(t); len(u.Forward) > 0 || u.ForwardOnly || u.Reply != nil {
		t.Errorf("something was stored: %+v", u)
	}
	if names := w.users(admin.UserFilter{}); names != "ann@example.test" {
		t.Errorf("there are %s", names)
	}
}

// An import can be run again, and says what differs.
func TestImportOfForwardsAndReplies(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.domain("example.test")
	const line = `{"user":"ann@example.test","forward":["Bob@example.test"],"forward_only":true,"reply":{"kind":"always","text":"x","from":"2026-07-01T02:00:00+02:00"}}`
	for i, c := range []struct{ line, want string }{
		{line, admin.ImportCreated},
		{line, admin.ImportExists},
		{`{"user":"ann@example.test"}`, admin.ImportExists}, // says nothing of them
		{strings.Replace(line, "02:00:00+02:00", "00:00:00Z", 1), admin.ImportExists},
		{strings.Replace(line, `"forward_only":true,`, "", 1), "forward"},
		{strings.Replace(line, "Bob", "Eve", 1), "forward"},
		{strings.Replace(line, `"text":"x"`, `"text":"y"`, 1), "reply"},
		{strings.Replace(line, "00+02", "00+03", 1), "reply"},
		{`{"user":"bea@example.test","reply":{"kind":"always"}}`, "without a text"},
	} {
		var got admin.ImportResult
		err := w.client.Import(t.Context(), strings.NewReader(c.line+"\n"), func(r admin.ImportResult) error { got = r; return nil })
		if err != nil || got.Result != c.want && (got.Result != admin.ImportFailed || !strings.Contains(got.Text, c.want)) {
			t.Errorf("line %d: %+v, %v", i, got, err)
		}
	}
}
