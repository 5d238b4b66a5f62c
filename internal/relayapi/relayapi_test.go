package relayapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestClient(t *testing.T) {
	body := strings.Repeat("line\r\n", 100_000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		br := bufio.NewReader(r.Body)
		m, err := ReadMessage(br)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"code":%q,"text":%q}`, CodeBad, err)
			return
		}
		if b, err := io.ReadAll(br); err != nil || string(b) != body {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"id":%q}`, m.ID)
	}))
	defer srv.Close()
	c := &Client{HTTP: srv.Client(), Base: srv.URL}
	m := Message{ID: "id", Kind: KindRedirect, User: "u@x.test", To: []string{"a@y.test"}}
	if r, err := c.Send(context.Background(), m, strings.NewReader(body)); err != nil || r.ID != "id" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := c.Send(context.Background(), m, strings.NewReader("other")); err == nil || Permanent(err) {
		t.Errorf("%v", err)
	}
	for name, change := range map[string]func(*Message){
		"no id": func(m *Message) { m.ID = "" }, "long id": func(m *Message) { m.ID = strings.Repeat("x", 201) }, "kind": func(m *Message) { m.Kind = "submission" },
		"nobody": func(m *Message) { m.To = nil }, "many": func(m *Message) { m.To = slices.Repeat(m.To, 101) },
		"huge": func(m *Message) { m.To[0] = strings.Repeat("x", maxLineBytes) },
	} {
		bad := m
		bad.To = slices.Clone(m.To)
		change(&bad)
		if _, err := c.Send(context.Background(), bad, strings.NewReader(body)); !Permanent(err) || !IsCode(err, CodeBad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if Permanent(errors.New("x")) || Permanent(&Error{Code: CodeLimited}) || !Permanent(&Error{Code: CodeLoop}) {
		t.Error("Permanent")
	}
}

func TestOrder(t *testing.T) {
	nodes := []string{"mx1", "mx2", "mx3"}
	first := map[string]int{}
	for i := range 3000 {
		id := fmt.Sprint("id", i)
		o := Order(id, nodes)
		if other := Order(id, []string{"mx3", "mx1", "mx2"}); !slices.Equal(o, other) {
			t.Fatalf("%v, %v", o, other)
		}
		first[o[0]]++
	}
	for _, n := range nodes {
		if first[n] < 800 || first[n] > 1200 {
			t.Errorf("%v", first)
		}
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add(`{"id":"a","kind":"redirect","user":"u@x","to":["a@b"]}` + "\nbody")
	f.Add("{}\n")
	f.Add(strings.Repeat("x", 5000))
	f.Fuzz(func(t *testing.T, in string) {
		r := bufio.NewReader(strings.NewReader(in))
		m, err := ReadMessage(r)
		if err != nil {
			return
		}
		_, want, _ := strings.Cut(in, "\n")
		if rest, _ := io.ReadAll(r); string(rest) != want || m.ID == "" || len(m.To) == 0 {
			t.Errorf("%+v, then %q", m, rest)
		}
	})
}
