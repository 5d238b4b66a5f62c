package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

func (n *fakeNode) adopt(w http.ResponseWriter, r *http.Request) {
	_, req, err := control.Decode[control.AdoptRequest](r, cluster.RoleDirector)
	n.with(func() {
		if err == nil {
			err = n.refuse
		}
		n.adopted = append(n.adopted, req)
	})
	p := control.NewProgressWriter(w)
	p.End(control.PullProgress{Done: true}, err)
}

// TestImportMaildir: the home takes the Maildir over before the record is there,
// and is asked again when it is; an import that is run again asks again.
func TestImportMaildir(t *testing.T) {
	w := newWorld(t)
	home := w.backend("b1", 0, 10*gib)
	w.domain("example.test")
	const line = `{"user":"ann@example.test","home":"b1","maildir":{"path":"/var/vmail/ann/","mode":"move","pop3_uidl":"%g"}}`
	want := control.AdoptRequest{User: "ann@example.test", Path: "/var/vmail/ann", Mode: control.AdoptMove, POP3UIDL: "%g"}
	w.imports(t, line, admin.ImportCreated, "")
	home.with(func() {
		if !slices.Equal(home.adopted, []control.AdoptRequest{want, want}) || len(home.prepared) != 0 {
			t.Errorf("asked for %+v, prepared %+v", home.adopted, home.prepared)
		}
	})
	w.imports(t, line, admin.ImportExists, "")
	home.with(func() { home.refuse = &control.Error{Code: control.CodeFence, Text: "another mailbox"} })
	w.imports(t, line, admin.ImportFailed, "another mailbox")
	home.with(func() { home.refuse = &control.Error{Code: control.CodeBad, Text: "LAYOUT=fs"} })
	w.imports(t, `{"user":"ben@example.test","home":"b1","maildir":{"path":"/var/vmail/ben"}}`, admin.ImportFailed, "LAYOUT=fs")
	if _, err := w.dir.Location(t.Context(), "ben@example.test"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("a user whose Maildir was refused: %v", err)
	}
	for _, bad := range []struct{ mail, text string }{
		{`"maildir":{"path":"/x"}`, "as the home"}, {`"home":"b1","maildir":{"path":"x"}`, "absolute"}, {`"home":"b1","maildir":{"path":"/x","mode":"y"}`, "copy, link or move"},
	} {
		w.imports(t, `{"user":"ben@example.test",`+bad.mail+`}`, admin.ImportFailed, bad.text)
	}
}

func (w *world) imports(t *testing.T, line, result, text string) {
	t.Helper()
	if !json.Valid([]byte(line)) {
		t.Fatal(line)
	}
	got, err := w.runImport(strings.NewReader(line))
	if err != nil || got[1].Result != result || !strings.Contains(got[1].Text, text) {
		t.Errorf("%s: %+v, %v", line, got, err)
	}
}
