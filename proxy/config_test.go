package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/director/cache"
	"waypost/internal/login"
)

var (
	_ Directory     = (*cache.Client)(nil)
	_ Guard         = (*login.Guard)(nil)
	_ AccountCache  = (*cache.Client)(nil)
	_ AccountReader = (*director.Directory)(nil)
)

func TestConfig(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"good", `imap = ["127.0.0.1:143"]` + "\n" + `plaintext_from = ["127.0.0.0/8", "::1/128"]` + "\n" + `login_wait = "1m"`, ""},
		{"ManageSieve alone", `managesieve = ["127.0.0.1:4190"]` + "\nallow_plaintext = true", ""},
		{"nothing", ``, "no address"},
		{"no login possible", `imap = ["127.0.0.1:143"]`, "nobody could log in"},
		{"no port", `imap = ["127.0.0.1"]` + "\nallow_plaintext = true", "want host:port"},
		{"TLS without a certificate", `imaps = ["127.0.0.1:993"]`, "need cert_file"},
		{"half a certificate", `imaps = ["127.0.0.1:993"]` + "\n" + `cert_file = "x"`, "belong together"},
		{"no network", `imap = ["127.0.0.1:143"]` + "\n" + `plaintext_from = ["localhost"]`, "want a network"},
		{"no limit", `imap = ["127.0.0.1:143"]` + "\nallow_plaintext = true\nmax_connections = 0", "max_connections is 0"},
		{"nobody resumes", `imap = ["127.0.0.1:143"]` + "\nallow_plaintext = true\nresume_concurrency = 0", "resume_concurrency is 0"},
		{"no wait", `imap = ["127.0.0.1:143"]` + "\nallow_plaintext = true\n" + `resume_wait = "0s"`, "resume_wait is 0s"},
		{"no time", `imap = ["127.0.0.1:143"]` + "\nallow_plaintext = true\n" + `idle_imap = "-1s"`, "idle_imap is -1s"},
	} {
		cfg := DefaultConfig()
		meta, err := toml.Decode(c.text, &cfg)
		if err != nil || len(meta.Undecoded()) > 0 {
			t.Fatalf("%s: %v, %v", c.name, err, meta.Undecoded())
		}
		err = cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if c.name == "good" && cfg.LoginWait != time.Minute {
			t.Errorf("login_wait is %v", cfg.LoginWait)
		}
	}
}

func TestPortTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	h := newHouse(t)
	h.cfg.POP3 = []string{ln.Addr().String()}
	_, err = New(h.cfg, Deps{Node: "p1", Directory: h.dir, Guard: h.guard, Dial: h.dials, Log: h.logger()})
	if err == nil || !strings.Contains(err.Error(), "pop3") {
		t.Fatal(err)
	}
	if _, err := New(h.cfg, Deps{}); err == nil {
		t.Fatal("no error without Deps")
	}
}

type fakeAccounts map[director.User]director.Account

func (f fakeAccounts) Account(_ context.Context, u director.User) (director.Versioned[director.Account], error) {
	if u == "away@example.test" {
		return director.Versioned[director.Account]{}, director.ErrUnavailable
	}
	a, ok := f[u]
	if !ok {
		return director.Versioned[director.Account]{}, director.ErrNotFound
	}
	return director.Versioned[director.Account]{Value: a, Rev: 5}, nil
}

func TestLookup(t *testing.T) {
	memory := newFakeDirectory()
	lookup := Lookup(memory, fakeAccounts{"new@example.test": {Hash: "fresh", Disabled: true, Services: []string{"imap"}}})
	for _, c := range []struct {
		name string
		want login.Account
		err  error
	}{
		{" Alice@Example.TEST", login.Account{User: "alice@example.test", Hash: "secret", Version: 1}, nil},
		{"new@example.test", login.Account{User: "new@example.test", Hash: "fresh", Version: 5, Disabled: true, Services: []string{"imap"}}, nil},
		{"nobody@example.test", login.Account{}, login.ErrUnknownUser},
		{"no address", login.Account{}, login.ErrUnknownUser},
		{"away@example.test", login.Account{}, director.ErrUnavailable},
	} {
		got, err := lookup(context.Background(), c.name)
		if !errors.Is(err, c.err) || got.User != c.want.User || got.Hash != c.want.Hash || got.Version != c.want.Version ||
			got.Disabled != c.want.Disabled || len(got.Services) != len(c.want.Services) {
			t.Errorf("%q: %+v, %v; want %+v, %v", c.name, got, err, c.want, c.err)
		}
	}
}

// countedAccounts counts the reads of a store that can change.
type countedAccounts struct {
	accounts fakeAccounts
	reads    int
}

func (c *countedAccounts) Account(ctx context.Context, u director.User) (director.Versioned[director.Account], error) {
	c.reads++
	return c.accounts.Account(ctx, u)
}

func TestLookupRemembersUnknownNames(t *testing.T) {
	memory, store := newFakeDirectory(), &countedAccounts{accounts: fakeAccounts{}}
	lookup := Lookup(memory, store)
	want := func(what string, err error, reads int) {
		t.Helper()
		if _, got := lookup(t.Context(), "new@example.test"); !errors.Is(got, err) || store.reads != reads {
			t.Errorf("%s: %v after %d reads, want %v after %d", what, got, store.reads, err, reads)
		}
	}
	for range 5 {
		want("unknown", login.ErrUnknownUser, 1)
	}
	memory.away = true
	want("a memory that is behind proves nothing", login.ErrUnknownUser, 2)
	memory.away = false
	store.accounts["new@example.test"] = director.Account{Hash: "x"}
	memory.setAccount("new@example.test", director.Account{Hash: "x"}, false)
	want("created", nil, 2)
	delete(memory.accounts, "new@example.test")
	want("the watch told of it", nil, 3)
	// Disabled in memory is asked of the store.
	memory.accounts["new@example.test"] = director.Account{Hash: "x", Disabled: true}
	if a, err := lookup(t.Context(), "new@example.test"); err != nil || a.Disabled || store.reads != 4 {
		t.Errorf("enabled again: %+v, %v after %d reads", a, err, store.reads)
	}
}

func TestUnknownNamesAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	n := newUnknownNames(func() time.Time { return now })
	for i := range 2*unknownMost + 1 {
		n.add(director.User(fmt.Sprintf("u%d@example.test", i)))
	}
	last := director.User(fmt.Sprintf("u%d@example.test", 2*unknownMost))
	if len(n.until) != unknownMost || !n.has(last) || n.has("u0@example.test") {
		t.Errorf("%d names, the last one %v", len(n.until), n.has(last))
	}
	n.watch(director.Change{})
	if n.has(last) {
		t.Error("kept over a reload")
	}
	n.add(last)
	now = now.Add(unknownFor)
	if n.has(last) {
		t.Error("kept for too long")
	}
}

func TestObserveLogins(t *testing.T) {
	reg := prometheus.NewRegistry()
	observe := ObserveLogins(reg, "proxy")
	observe(login.OutcomeRemembered)
	h := &house{t: t, reg: reg}
	if n := h.metric("login_decisions_total"); n != 1 {
		t.Errorf("%v counted", n)
	}
}
