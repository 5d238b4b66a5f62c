package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"waypost/director"
	"waypost/director/admin"
)

// runImport gives the results by line.
func (w *world) runImport(lines io.Reader) (map[int]admin.ImportResult, error) {
	got := map[int]admin.ImportResult{}
	err := w.client.Import(w.t.Context(), lines, func(r admin.ImportResult) error {
		if _, twice := got[r.Line]; twice {
			w.t.Errorf("line %d was answered twice", r.Line)
		}
		got[r.Line] = r
		return nil
	})
	return got, err
}

func TestImport(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.backend("b2", 0, 10*gib)
	w.domain("example.test")
	var text strings.Builder
	const users = 60
	for i := range users {
		req := admin.CreateUser{User: nameOf(i), PasswordHash: "{SHA256-CRYPT}$5$saltsalt$" + strings.Repeat("a", 43), QuotaBytes: gib, Services: []string{"pop3"}}
		if i%2 == 0 {
			req.Home = "b2"
		}
		b, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s\n", b)
	}
	text.WriteString("\n{\"user\":\"pw@example.test\",\"password\":\"open sesame\"}\n")
	for try, want := range []string{admin.ImportCreated, admin.ImportExists} {
		got, err := w.runImport(strings.NewReader(text.String()))
		if err != nil || len(got) != users+1 {
			t.Fatalf("import %d: %d results, %v", try, len(got), err)
		}
		for line, r := range got {
			if r.Result != want || r.Home == "" || line <= users && r.User != nameOf(line-1) {
				t.Errorf("import %d: line %d: %+v", try, line, r)
			}
		}
		if got[users+2].User != "pw@example.test" {
			t.Errorf("blank lines do not count: %+v", got)
		}
	}

	bad := []struct{ line, code, text string }{
		{`{"user":"u001@example.test","quota_bytes":5}`, admin.CodeExists, "password, quota_bytes, services"},
		{`{"user":"pw@example.test","password":"wrong"}`, admin.CodeExists, "password"},
		{`{"user":"pw@example.test","password":"open sesame","home":"b9"}`, admin.CodeNotFound, "b9"},
		{`{"user":"x@elsewhere.test"}`, admin.CodeNotFound, "elsewhere.test"},
		{`{"user":"x@example.test","pasword":"typo"}`, admin.CodeBad, "pasword"},
		{`{"user":`, admin.CodeBad, "invalid"},
		{`{"user":"x"}`, admin.CodeBad, "local@domain"},
	}
	text.Reset()
	for _, b := range bad {
		text.WriteString(b.line + "\n")
	}
	text.WriteString(`{"user":"last@example.test"}`) // no line end
	got, err := w.runImport(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range bad {
		r := got[i+1]
		if i == 2 {
			// Who is there is there, whatever home is asked for.
			b.code, b.text = admin.CodeExists, "home"
		}
		if r.Result != admin.ImportFailed || r.Code != b.code || !containsAll(r.Text, b.text) {
			t.Errorf("%s: %+v", b.line, r)
		}
	}
	if r := got[len(bad)+1]; r.Result != admin.ImportCreated {
		t.Errorf("the last line: %+v", r)
	}
	if strings.Contains(w.log.String(), "open sesame") {
		t.Error("the log tells a password")
	}
}

func containsAll(text, words string) bool {
	for _, word := range strings.Split(words, ", ") {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// TestImportAnswersWhileLinesCome sends the second line when the first is done.
func TestImportAnswersWhileLinesCome(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.domain("example.test")
	r, send := io.Pipe()
	go func() { _, _ = io.WriteString(send, "{\"user\":\"a@example.test\"}\n") }()
	var order []string
	err := w.client.Import(t.Context(), r, func(res admin.ImportResult) error {
		order = append(order, res.User)
		if len(order) == 1 {
			go func() {
				_, _ = io.WriteString(send, "{\"user\":\"b@example.test\"}\n")
				_ = send.Close()
			}()
		}
		return nil
	})
	if err != nil || strings.Join(order, " ") != "a@example.test b@example.test" {
		t.Errorf("%v, %v", order, err)
	}
}

func TestImportBreaksOff(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.domain("example.test")
	long := `{"user":"` + strings.Repeat("x", maxImportLine) + `"}`
	if _, err := w.runImport(strings.NewReader(long)); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("a line that is too long: %v", err)
	}
	failure := errors.New("the disk is gone")
	r, send := io.Pipe()
	go func() {
		_, _ = io.WriteString(send, "{\"user\":\"a@example.test\"}\n")
		_ = send.CloseWithError(failure)
	}()
	if _, err := w.runImport(r); err == nil {
		t.Error("a reader that failed is no error")
	}
	enough := errors.New("enough")
	err := w.client.Import(t.Context(), strings.NewReader("{\"user\":\"b@example.test\"}\n"), func(admin.ImportResult) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("a caller that stops: %v", err)
	}
}
