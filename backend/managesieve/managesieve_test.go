package managesieve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/mailbox"
	"waypost/backend/scripts"
)

const capabilities = `
	S: "IMPLEMENTATION" "Waypost"
	S: "SIEVE" "fileinto vacation"
	S: "SASL" "PLAIN LOGIN"
	S: "OWNER" "ann@example.test"
	S: "VERSION" "1.0"
	S: "NOTIFY" "mailto"
	S: "MAXREDIRECTS" "5"
	S: OK "Capabilities listed."
	`

func TestTranscripts(t *testing.T) {
	long := strings.Repeat("x", 1100)
	for _, c := range []struct {
		name, script string
		limits       scripts.Limits
		end          error
	}{
		{name: "a life", script: `
			C: capability` + capabilities + `
			C: LISTSCRIPTS
			S: OK "Scripts listed."
			C: HAVESPACE "a" 100
			S: OK "There is space."
			C: PUTSCRIPT "a" {7+}
			C: keep;
			C:
			S: OK "Script stored."
			C: PutScript "b\"\\" "keep;"
			S: OK "Script stored."
			C: SETACTIVE "a"
			S: OK "Script is active."
			C: LISTSCRIPTS
			S: "a" ACTIVE
			S: "b\"\\"
			S: OK "Scripts listed."
			C: GETSCRIPT "a"
			S: {7}
			S: keep;
			S:
			S: OK "Script sent."
			C: DELETESCRIPT "a"
			S: NO (ACTIVE) "The active script cannot be deleted."
			C: RENAMESCRIPT "a" "z"
			S: OK "Script renamed."
			C: SETACTIVE ""
			S: OK "No script is active."
			C: SETACTIVE ""
			S: OK "No script is active."
			C: DELETESCRIPT {1+}
			C: z
			S: OK "Script deleted."
			C: LISTSCRIPTS
			S: "b\"\\"
			S: OK "Scripts listed."
			C: LOGOUT
			C: LISTSCRIPTS
			S: OK "Goodbye."
			EOF`},
		{name: "refused by the store", script: `
			C: PUTSCRIPT "a" "keep;"
			S: OK "Script stored."
			C: PUTSCRIPT "b" "keep;"
			S: OK "Script stored."
			C: GETSCRIPT "c"
			S: NO (NONEXISTENT) "There is no script of that name."
			C: SETACTIVE "c"
			S: NO (NONEXISTENT) "There is no script of that name."
			C: DELETESCRIPT "c"
			S: NO (NONEXISTENT) "There is no script of that name."
			C: RENAMESCRIPT "c" "d"
			S: NO (NONEXISTENT) "There is no script of that name."
			C: RENAMESCRIPT "a" "b"
			S: NO (ALREADYEXISTS) "There is a script of that name already."
			C: PUTSCRIPT "" "keep;"
			S: NO "A script cannot have that name."
			C: HAVESPACE "" 1
			S: NO "A script cannot have that name."
			C: GETSCRIPT "` + "\x01" + `"
			S: NO "A script cannot have that name."
			C: HAVESPACE "c" 5
			S: NO (QUOTA/MAXSCRIPTS) "There are too many scripts."
			C: PUTSCRIPT "c" "error"
			S: NO (QUOTA/MAXSCRIPTS) "There are too many scripts."
			C: HAVESPACE "a" 21
			S: NO (QUOTA/MAXSIZE) "The script is too large."
			C: HAVESPACE "a" 4294967295
			S: NO (QUOTA/MAXSIZE) "The script is too large."
			C: HAVESPACE "a" 20
			S: NO (QUOTA) "There is no space left for scripts."
			C: PUTSCRIPT "a" "12345678901234567890"
			S: NO (QUOTA) "There is no space left for scripts."
			C: GETSCRIPT "a"
			S: {5}
			S: keep;
			S: OK "Script sent."
			C: LOGOUT
			S: OK "Goodbye."
			EOF`, limits: scripts.Limits{Scripts: 2, ScriptBytes: 20, TotalBytes: 24}},
		{name: "compiled", script: `
			C: PUTSCRIPT "a" "keep;"
			S: OK "Script stored."
			C: PUTSCRIPT "a" "an error"
			S: NO "line 1: \"a\" is wrong"
			C: PUTSCRIPT "a" "errors"
			S: NO {24}
			S: line 1: no
			S: line 2: "no"
			C: PUTSCRIPT "a" ""
			S: NO "An empty script is not taken."
			C: GETSCRIPT "a"
			S: {5}
			S: keep;
			S: OK "Script sent."
			C: PUTSCRIPT "a" "warn"
			S: OK (WARNINGS) "line 3: unused"
			C: CHECKSCRIPT "warn"
			S: OK (WARNINGS) "line 3: unused"
			C: CHECKSCRIPT {5+}
			C: error
			S: NO "line 1: \"\" is wrong"
			C: CHECKSCRIPT {4+}
			C: keep
			S: OK "Script is valid."
			C: GETSCRIPT "a"
			S: {4}
			S: warn
			S: OK "Script sent."
			C: LISTSCRIPTS
			S: "a"
			S: OK "Scripts listed."
			C: LOGOUT
			S: OK "Goodbye."
			EOF`},
		{name: "others", script: `
			C: NOOP
			S: OK "Done."
			C: NOOP "tag \"1\""
			S: OK (TAG "tag \"1\"") "Done."
			C: NOOP {4+}
			C"a\r\nb\r\n"
			S: OK (TAG {4}
			S: a
			S: b) "Done."
			C: UNAUTHENTICATE
			S: NO "Not offered here: log out and connect again."
			C: STARTTLS
			S: NO "Too late for STARTTLS."
			C: AUTHENTICATE "PLAIN"
			S: NO "Already logged in."
			C: AUTHENTICATE "PLAIN" "AA=="
			S: NO "Already logged in."
			C: LOGOUT
			S: OK "Goodbye."
			EOF`},
		{name: "malformed", script: `
			C:
			S: NO "That is no command."
			C: 123
			S: NO "That is no command."
			C: XNOOP
			S: NO "Unknown command."
			C: SETACTIVE
			S: NO "Wrong number of arguments."
			C: LISTSCRIPTS "a"
			S: NO "Wrong number of arguments."
			C: RENAMESCRIPT "a" "b" "c"
			S: NO "Wrong number of arguments."
			C: RENAMESCRIPT "a" "b" "c" "d"
			S: NO "Too many arguments."
			C: HAVESPACE "a" "b"
			S: NO "An argument is of the wrong kind."
			C: HAVESPACE 1 1
			S: NO "An argument is of the wrong kind."
			C: HAVESPACE "a" 4294967296
			S: NO "Want a string or a number."
			C: HAVESPACE "a" -1
			S: NO "Want a string or a number."
			C: HAVESPACE "a" +1
			S: NO "Want a string or a number."
			C: SETACTIVE a
			S: NO "Want a string or a number."
			C: SETACTIVE "a
			S: NO "Malformed string."
			C: SETACTIVE "a\b"
			S: NO "Malformed string."
			C: SETACTIVE "a"b
			S: NO "Arguments must be set off by spaces."
			C"SETACTIVE \"a\x00\"\r\n"
			S: NO "Malformed string."
			C: NOOP
			S: OK "Done."
			C: LOGOUT now
			S: NO "Want a string or a number."
			C: LOGOUT
			S: OK "Goodbye."
			EOF`},
		{name: "literals never run", script: `
			C: XPUT {8+}
			C: LOGOUT
			C:
			S: NO "Unknown command."
			C"NOOP{8+}\r\nLOGOUT\r\n\r\n"
			S: NO "A space must come before a string."
			C"{8+}\r\nLOGOUT\r\n\r\n"
			S: NO "That is no command."
			C"SETACTIVE \"a{8+}\r\nLOGOUT\r\n\r\n"
			S: NO "A space must come before a string."
			C"SETACTIVE \"a {8+}\r\nLOGOUT\r\n\r\n"
			S: NO "Malformed string."
			C"SETACTIVE bad {8}\r\nLOGOUT\r\n \"x\"\r\n"
			S: NO "Want a string or a number."
			C"PUTSCRIPT \"a\" {2000+}\r\nLOGOUT\r\n` + strings.Repeat("x", 1992) + `\r\n"
			S: NO (QUOTA/MAXSIZE) "That is too long."
			C"SETACTIVE {1100+}\r\nLOGOUT\r\n` + long[8:] + `\r\n"
			S: NO (QUOTA/MAXSIZE) "That is too long."
			C"PUTSCRIPT {1100+}\r\n` + long + ` {7+}\r\nLOGOUT!\r\n"
			S: NO (QUOTA/MAXSIZE) "That is too long."
			C: NOOP {x+}
			S: NO "Want a string or a number."
			C: LOGOUT
			S: OK "Goodbye."
			EOF`},
		{name: "too many literals", script: `
			C"X {1+}\r\na {1+}\r\nb {1+}\r\nc {1+}\r\n"
			S: BYE "This is not ManageSieve."
			EOF`, end: ErrAbuse},
		{name: "a literal without an end", script: `
			C: PUTSCRIPT "a" {16777217+}
			S: BYE "This is not ManageSieve."
			EOF`, end: ErrAbuse},
		{name: "a literal of no number", script: `
			C: PUTSCRIPT "a" {99999999999999999999+}
			S: BYE "This is not ManageSieve."
			EOF`, end: ErrAbuse},
		{name: "a long line", script: `
			C: NOOP "` + strings.Repeat("x", lineBytes) + `"
			S: BYE "This is not ManageSieve."
			EOF`, end: ErrAbuse},
		{name: "only nonsense", script: strings.Repeat("C: GET / HTTP/1.1\nS: NO \"Want a string or a number.\"\n", maxBadCommands) + `
			C: GET / HTTP/1.1
			S: BYE "This is not ManageSieve."
			EOF`, end: ErrAbuse},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := options()
			opt.ScriptBytes = 1500
			d := serve(t, opt, newHome(t, c.limits).scripts())
			d.Play(c.script)
			if err := d.end(); !errors.Is(err, c.end) {
				t.Errorf("ended in %v, want %v", err, c.end)
			}
		})
	}
}

// Names and sources of any kind come back as they went.
func TestAnyBytes(t *testing.T) {
	d := serve(t, options(), newHome(t, scripts.Limits{}).scripts())
	name := strings.Repeat("🦊", 127) + "\""
	src := strings.Repeat("#\x00\xff\r\n{3+}\n", 50_000)
	d.Send(fmt.Sprintf("PUTSCRIPT {%d+}\r\n%s {%d+}\r\n%s\r\nLISTSCRIPTS\r\nGETSCRIPT {%d+}\r\n%s\r\n", len(name), name, len(src), src, len(name), name))
	d.Play("S: OK \"Script stored.\"\nS: \"" + name[:127*4] + "\\\"\"\nS: OK \"Scripts listed.\"\nS: {" + fmt.Sprint(len(src)) + "}")
	got := make([]byte, len(src))
	if _, err := io.ReadFull(d.Reader, got); err != nil || string(got) != src {
		t.Fatalf("got %d bytes back, others or %v", len(got), err)
	}
	d.Play("S:\nS: OK \"Script sent.\"")
}

// A move ends the session with a BYE, whichever way it shows.
func TestMoved(t *testing.T) {
	const bye = "\nS: BYE (TRYLATER) \"The mailbox is away for a moment, connect again.\"\nEOF"
	for _, fence := range []error{mailbox.ErrStale, mailbox.ErrFrozen, mailbox.ErrRefused, mailbox.ErrClosed} {
		for _, command := range []string{
			"LISTSCRIPTS", `HAVESPACE "a" 1`, `PUTSCRIPT "a" "new"`, `SETACTIVE "a"`, `SETACTIVE ""`, `GETSCRIPT "a"`, `DELETESCRIPT "a"`, `RENAMESCRIPT "a" "b"`,
		} {
			h := newHome(t, scripts.Limits{})
			d := serve(t, options(), h.scripts())
			d.Play("C: PUTSCRIPT \"a\" \"old\"\nS: OK \"Script stored.\"")
			h.refuse(fence)
			d.Play("C: " + command + "\nC: NOOP" + bye)
			if err := d.end(); !errors.Is(err, ErrMoved) || !errors.Is(err, fence) {
				t.Errorf("%s: %v", command, err)
			}
			h.refuse(nil)
			if src, err := h.store.Get("a"); string(src) != "old" || err != nil {
				t.Errorf("%s: %q, %v", command, src, err)
			}
		}
	}
	t.Run("idle", func(t *testing.T) {
		h := newHome(t, scripts.Limits{})
		d := serve(t, options(), h.scripts())
		d.Play("C: NOOP\nS: OK \"Done.\"")
		close(h.done)
		d.Play(bye)
		if err := d.end(); !errors.Is(err, ErrMoved) {
			t.Error(err)
		}
	})
	t.Run("within a literal", func(t *testing.T) {
		h := newHome(t, scripts.Limits{})
		d := serve(t, options(), h.scripts())
		d.Play("C: NOOP\nS: OK \"Done.\"\nC\"PUTSCRIPT \\\"a\\\" {100+}\\r\\nkeep\"")
		close(h.done)
		d.Play(bye)
		if err := d.end(); !errors.Is(err, ErrMoved) || h.writes != 0 {
			t.Error(err, h.writes)
		}
	})
	t.Run("before it began", func(t *testing.T) {
		h := newHome(t, scripts.Limits{})
		close(h.done)
		d := serve(t, options(), h.scripts())
		d.Play("C: PUTSCRIPT \"a\" \"keep;\"" + bye)
		if err := d.end(); !errors.Is(err, ErrMoved) || h.writes != 0 {
			t.Error(err, h.writes)
		}
	})
}

func TestStoreFails(t *testing.T) {
	h := newHome(t, scripts.Limits{})
	d := serve(t, options(), h.scripts())
	h.refuse(errors.New("secret detail"))
	d.Play("C: LISTSCRIPTS\nS: NO (TRYLATER) \"Something went wrong here, try again later.\"")
	h.refuse(mailbox.ErrNoSpace)
	d.Play("C: PUTSCRIPT \"a\" \"x\"\nS: NO (TRYLATER) \"There is no space on the server now.\"")
	h.refuse(mailbox.ErrOverQuota)
	d.Play("C: SETACTIVE \"\"\nS: NO (QUOTA) \"There is no space left in the mailbox.\"")
	h.refuse(nil)
	d.Play("C: LOGOUT\nS: OK \"Goodbye.\"\nEOF")
}

// A script that was brought here by other means is compiled before it filters.
func TestActivatesOnlyWhatCompiles(t *testing.T) {
	h := newHome(t, scripts.Limits{})
	if err := h.store.Put("a", []byte("error")); err != nil {
		t.Fatal(err)
	}
	d := serve(t, options(), h.scripts())
	d.Play("C: SETACTIVE \"a\"\nS: NO \"line 1: \\\"a\\\" is wrong\"\nC: LISTSCRIPTS\nS: \"a\"\nS: OK \"Scripts listed.\"")
}

func TestIdle(t *testing.T) {
	for _, said := range []string{"", "NO", "PUTSCRIPT \"a\" {10+}\r\nabc"} {
		opt := options()
		opt.Idle, opt.Literal = 50*time.Millisecond, 50*time.Millisecond
		d := serve(t, opt, newHome(t, scripts.Limits{}).scripts())
		d.Send(said)
		d.Play("S: BYE \"Idle for too long.\"\nEOF")
		if err := d.end(); !errors.Is(err, ErrIdle) {
			t.Errorf("%q: %v", said, err)
		}
	}
}

func TestStopped(t *testing.T) {
	d := serve(t, options(), newHome(t, scripts.Limits{}).scripts())
	d.Play("C: NOOP\nS: OK \"Done.\"")
	d.cancel()
	if err := d.end(); ending(err) != "stopped" {
		t.Error(err)
	}
}

func TestHungUp(t *testing.T) {
	for _, said := range []string{"", "NOOP", "PUTSCRIPT \"a\" {10+}\r\nabc", "PUTSCRIPT \"a\" {3+}\r\nabc"} {
		h := newHome(t, scripts.Limits{})
		d := serve(t, options(), h.scripts())
		d.Send(said)
		d.Conn.Close()
		if err := d.end(); ending(err) != "hung_up" || h.writes != 0 {
			t.Errorf("%q: %v, %d writes", said, err, h.writes)
		}
	}
}

// A client that asks and does not read is cut off, also while it is moved.
func TestSlow(t *testing.T) {
	for _, moved := range []bool{false, true} {
		h := newHome(t, scripts.Limits{})
		if err := h.store.Put("a", []byte(strings.Repeat("x", 1<<20))); err != nil {
			t.Fatal(err)
		}
		opt := options()
		opt.Write = 50 * time.Millisecond
		if moved {
			opt.Write, opt.Linger = time.Hour, 50*time.Millisecond
		}
		d := serve(t, opt, h.scripts())
		d.Send(strings.Repeat("GETSCRIPT \"a\"\r\n", 100))
		if _, err := d.Reader.ReadByte(); err != nil {
			t.Fatal(err)
		}
		if moved {
			close(h.done)
		}
		if err := d.end(); err == nil || ending(err) != "slow" && ending(err) != "moved" {
			t.Error(err)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	opt := options()
	opt.Metrics = reg
	d := serve(t, opt, newHome(t, scripts.Limits{}).scripts())
	d.Play("C: NOOP\nC: SETACTIVE \"a\"\nC: XNOOP\nC: LOGOUT\nS: OK \"Done.\"\nS: NO (NONEXISTENT) \"There is no script of that name.\"\nS: NO \"Unknown command.\"\nS: OK \"Goodbye.\"\nEOF")
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sum[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if sum["waypost_managesieve_commands_total"] != 3 || sum["waypost_managesieve_sessions_ended_total"] != 1 || sum["waypost_managesieve_sessions"] != 0 {
		t.Error(sum)
	}
}

func TestPlainText(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a\nb\r\nc\n\n": "a\r\nb\r\nc", "a\x00\xffb": "a??b",
		strings.Repeat("ä", textBytes): strings.Repeat("ä", textBytes/2) + "...",
	} {
		if got := plainText(in); got != want {
			t.Errorf("%.20q: %.20q", in, got)
		}
	}
}

// FuzzParser: whatever comes, the parser ends, holds little, and never gives a
// command that stood in a literal.
func FuzzParser(f *testing.F) {
	for _, s := range []string{
		"NOOP\r\n", "PUTSCRIPT \"a\" {3+}\r\nabc\r\n", "HAVESPACE \"a\" 12\r\n", "X {0+}\r\n {0}\r\n {1+}\r\nx\r\n", "NOOP \"\\\"\\\\\"\r\n",
		"SETACTIVE \"a{5+}\r\nabcde\r\n", "NOOP {5+\r\n", "\r\n", "NOOP{2+}\r\nab\r\n", "A {18446744073709551616+}\r\n", "NOOP {-1+}\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		p := &parser{br: bufio.NewReaderSize(strings.NewReader(string(input)), lineBytes), scriptBytes: 100, onLine: func() {}, onLiteral: func() {}}
		for range len(input) + 1 {
			cmd, err := p.read()
			var bad syntaxError
			if err != nil && !errors.As(err, &bad) {
				return
			}
			if err == nil && (cmd.name == "" || strings.ToUpper(cmd.name) != cmd.name) {
				t.Fatalf("a command without a name: %+v", cmd)
			}
			if len(cmd.args) > 2*maxArgs {
				t.Fatalf("%d arguments", len(cmd.args))
			}
			for _, a := range cmd.args {
				if len(a.text) > lineBytes || a.tooLong && a.text != "" || a.kind != 's' && a.kind != 'n' {
					t.Fatalf("argument %+v", a)
				}
			}
		}
		t.Fatal("more commands than bytes")
	})
}

// FuzzStrings: a string that we write is read as the same.
func FuzzStrings(f *testing.F) {
	f.Add("a\"b\\")
	f.Add("a\r\nb")
	f.Add("\xff\x00")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > stringBytes {
			return
		}
		wire := "NOOP " + strings.Replace(encodeString(text), "}\r\n", "+}\r\n", 1) + "\r\n"
		if strings.HasPrefix(encodeString(text), `"`) {
			wire = "NOOP " + encodeString(text) + "\r\n"
		}
		if len(wire) > lineBytes {
			return
		}
		p := &parser{br: bufio.NewReaderSize(strings.NewReader(wire), lineBytes), onLine: func() {}, onLiteral: func() {}}
		cmd, err := p.read()
		if err != nil || len(cmd.args) != 1 || cmd.args[0].text != text {
			t.Fatalf("%q went as %q and came as %+v, %v", text, wire, cmd, err)
		}
	})
}
