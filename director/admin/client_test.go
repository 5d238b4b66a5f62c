package admin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"waypost/director"
)

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &Client{Base: s.URL, HTTP: s.Client()}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		is     error
		text   string
	}{
		"good":           {200, `{"domain":"x.test","created":"2026-01-02T03:04:05Z"}`, nil, ""},
		"refusal":        {404, `{"code":"not_found","text":"no such thing"}`, director.ErrNotFound, "no such thing"},
		"in use":         {409, `{"code":"in_use","text":"x"}`, ErrInUse, "x"},
		"newer refusal":  {418, `{"code":"teapot","text":"x"}`, nil, "x"},
		"no refusal":     {502, `<html>`, nil, "502"},
		"no JSON":        {200, `<html>`, nil, "answer"},
		"redirect is no": {302, ``, nil, "302"},
	} {
		client := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		_, err := client.CreateDomain(t.Context(), "x.test")
		switch {
		case c.text == "" && err != nil, c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)):
			t.Errorf("%s: %v", name, err)
		case c.is != nil && !errors.Is(err, c.is):
			t.Errorf("%s: %v is not %v", name, err, c.is)
		}
	}
}

func TestStreams(t *testing.T) {
	for name, c := range map[string]struct {
		body  string
		cut   bool
		users int
		text  string
	}{
		"empty":     {"", false, 0, ""},
		"complete":  {"{\"user\":\"a@x.test\"}\n{\"user\":\"b@x.test\"}\n", false, 2, ""},
		"refused":   {"{\"user\":\"a@x.test\"}\n{\"stream_error\":{\"code\":\"unavailable\",\"text\":\"stops\"}}\n", false, 1, "stops"},
		"broken":    {"{\"user\":\"a@x.test\"}\n", true, 1, "broke off"},
		"malformed": {"{\"user\":", false, 0, "answer"},
	} {
		client := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, c.body)
			if c.cut {
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		})
		n := 0
		err := client.Users(t.Context(), UserFilter{Domain: "x.test"}, func(User) error { n++; return nil })
		if n != c.users || (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %d users, %v", name, n, err)
		}
	}
}

// TestPathsAreEscaped takes a user whose name has all that a URL gives a
// meaning to.
func TestPathsAreEscaped(t *testing.T) {
	const user = director.User("a?b#c%25&d=e@x.test")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/users/{user}", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(User{User: director.User(r.PathValue("user"))})
	})
	mux.HandleFunc("GET /v1/lookup", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(Lookup{User: director.User(r.URL.Query().Get("user"))})
	})
	client := serve(t, mux.ServeHTTP)
	if u, err := client.User(t.Context(), user); err != nil || u.User != user {
		t.Errorf("%q, %v", u.User, err)
	}
	if l, err := client.Lookup(t.Context(), string(user)); err != nil || l.User != user {
		t.Errorf("%q, %v", l.User, err)
	}
}

func TestMoveOf(t *testing.T) {
	j := director.Move{ID: "m1", User: "a@x.test", Source: "b1", Target: "b2", Epoch: 3, Phase: director.PhaseUndone, Reason: "why",
		Created: time.Unix(1, 0), Receipt: "r", Messages: 1, Bytes: 2, CopiedBytes: 3, Passes: 4, BusySince: time.Unix(2, 0), BusyMS: 5, Finished: time.Unix(3, 0), Waiting: "w", Tries: 6, NotBefore: time.Unix(4, 0)}
	m := MoveOf(j)
	if m.From != "b1" || m.To != "b2" || m.Result != "undone" {
		t.Errorf("%+v", m)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Move]()) {
		if f.Name != "Others" && reflect.ValueOf(m).FieldByIndex(f.Index).IsZero() {
			t.Errorf("%s was not taken over", f.Name)
		}
	}
	j.Phase = director.PhaseBusy
	if r := MoveOf(j).Result; r != "" {
		t.Errorf("a move on its way has the result %q", r)
	}
}

// TestStableNames holds the JSON names that other tools rely on.
func TestStableNames(t *testing.T) {
	for _, c := range []struct {
		value any
		names string
	}{
		{User{}, "user home state epoch used_bytes used_messages quota_bytes quota_messages disabled services sessions"},
		{Backend{}, "id state users used_bytes capacity_bytes sessions free_bytes alive kind weight"},
		{Move{}, "user from to result messages bytes busy_ms receipt"},
	} {
		b, err := json.Marshal(c.value)
		if err != nil {
			t.Fatal(err)
		}
		var have map[string]any
		if err := json.Unmarshal(b, &have); err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(c.names) {
			if _, ok := have[name]; !ok {
				t.Errorf("%T has no %s", c.value, name)
			}
		}
	}
}
