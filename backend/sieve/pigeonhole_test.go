package sieve

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// foreign runs scripts with Dovecot's Pigeonhole, as another judge of what
// Sieve means.
type foreign struct {
	dir, config string
}

func newForeign(t *testing.T) *foreign {
	if _, err := exec.LookPath("sieve-test"); err != nil {
		t.Skip("sieve-test (Debian's dovecot-sieve) is not installed")
	}
	// Pigeonhole refuses to run as root; it drops to nobody, who needs a home.
	dir, err := os.MkdirTemp("", "sieve-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 65534, 65534
	}
	f := &foreign{dir: dir, config: filepath.Join(dir, "dovecot.conf")}
	f.write(t, "dovecot.conf", fmt.Sprintf("mail_location = maildir:%s/mail\nssl = no\nlog_path = /dev/stderr\nmail_uid = %d\nmail_gid = %d\n"+
		"first_valid_uid = 1\nfirst_valid_gid = 1\npostmaster_address = p@acme.example.com\n"+
		"plugin {\n sieve_extensions = +vacation-seconds +editheader\n}\n", dir, uid, gid))
	f.write(t, "letter.eml", string(crlf(letter)))
	f.write(t, "parts.eml", string(crlf(parts)))
	f.write(t, "odd.eml", string(crlf(oddities)))
	return f
}

func (f *foreign) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run gives the actions Pigeonhole would do, sorted.
func (f *foreign) run(t *testing.T, script, msg string) []string {
	t.Helper()
	f.write(t, "s.sieve", script)
	cmd := exec.CommandContext(t.Context(), "sieve-test", "-c", f.config, "-f", "coyote@desert.example.org",
		"-a", "roadrunner+acme@acme.example.com", "-r", "roadrunner+acme@acme.example.com",
		filepath.Join(f.dir, "s.sieve"), filepath.Join(f.dir, msg))
	cmd.Env = append(os.Environ(), "HOME="+f.dir, "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return []string{fmt.Sprintf("%v: %s", err, out)}
	}
	var list []string
	text := "" // what ends one that is being read
	for line := range strings.Lines(string(out)) {
		if text != "" {
			if line = strings.TrimRight(line, "\r\n"); line == text {
				text = ""
			} else {
				list[len(list)-1] += "|" + line
			}
			continue
		}
		line = strings.TrimSpace(line)
		action, isAction := strings.CutPrefix(line, "* ")
		switch {
		case line == "START MESSAGE":
			text = "END MESSAGE"
		case line == "--":
			text = "--"
		case strings.HasPrefix(line, "=> importance"), strings.HasPrefix(line, "=> subject"):
			_, value, _ := strings.Cut(line, ":")
			list[len(list)-1] += "|" + strings.TrimSpace(value)
		case strings.HasPrefix(line, "+ To: "), strings.HasPrefix(line, "+ Cc: "), strings.HasPrefix(line, "+ X-"):
			list[len(list)-1] += "|" + line[2:]
		case strings.HasPrefix(line, "+ add IMAP flags:") && len(list) > 0:
			flags := strings.Fields(strings.ToLower(strings.TrimPrefix(line, "+ add IMAP flags:")))
			slices.Sort(flags)
			list[len(list)-1] += " " + strings.Join(flags, " ")
		case !isAction || action == "discard":
		case strings.HasPrefix(action, "store message in folder: "):
			list = append(list, "store "+strings.TrimPrefix(action, "store message in folder: "))
		case strings.HasPrefix(action, "redirect message to: "):
			list = append(list, "redirect "+strings.Trim(strings.TrimPrefix(action, "redirect message to: "), "<>"))
		default:
			list = append(list, strings.Fields(action + " -")[0]+" "+strings.Fields(action + " - -")[1])
		}
	}
	slices.Sort(list)
	return list
}

// ours gives our result in the same words.
func ours(r Result) []string {
	var list []string
	store := func(folder string, flags []string) {
		s := "store " + folder
		if len(flags) > 0 {
			flags = strings.Fields(strings.ToLower(strings.Join(flags, " ")))
			slices.Sort(flags)
			s += " " + strings.Join(flags, " ")
		}
		list = append(list, s)
	}
	for _, a := range r.Actions {
		switch a := a.(type) {
		case *Keep:
			store("INBOX", a.Flags)
		case *FileInto:
			store(a.Folder, a.Flags)
		case *Redirect:
			list = append(list, "redirect "+a.Address)
		case *Reject:
			list = append(list, "reject message")
		case *Vacation:
			list = append(list, "send vacation|"+a.Subject+"|"+strings.ReplaceAll(a.Reason, "\r\n", "|"))
		case *Notify:
			s := "send notification|" + string(a.Importance) + "|" + a.Subject
			for _, to := range a.To { // without those who have a notice
				if slices.Contains(a.HeaderTo, to) {
					s += "|To: " + to
				} else {
					s += "|Cc: " + to
				}
			}
			for _, f := range a.Fields {
				s += "|" + f.Name + ": " + f.Value
			}
			if a.Body != "" {
				s += "|" + strings.ReplaceAll(a.Body, "\r\n", "|")
			}
			list = append(list, s)
		}
	}
	slices.Sort(list)
	return list
}

// TestPigeonhole runs the tables of the other tests with both engines.
func TestPigeonhole(t *testing.T) {
	f := newForeign(t)
	env := testEnv()
	env.Zone = nil
	compare := func(script, name, msg string) {
		t.Helper()
		r, err := run(t, script, msg, env)
		if err != nil {
			t.Errorf("%s: %v", script, err)
		}
		got, want := ours(r), f.run(t, script, name)
		for _, list := range [][]string{got, want} {
			for i := range list {
				list[i], _, _ = strings.Cut(list[i], "|") // what is sent, TestPigeonholeRandom compares
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s\n ours       %q\n pigeonhole %q", script, got, want)
		}
	}
	n := 0
	for _, c := range scriptCases {
		if !c.own {
			n++
			compare(c.script, "letter.eml", letter)
		}
	}
	for _, set := range []struct {
		cases     []testCase
		name, msg string
	}{{letterCases, "letter.eml", letter}, {bodyCases, "parts.eml", parts}, {oddCases, "odd.eml", oddities}} {
		for _, c := range set.cases {
			if c.own {
				continue
			}
			requires := strings.ReplaceAll(strings.TrimSpace("fileinto "+c.requires), " ", `", "`)
			if strings.Contains(requires, "unicode-casemap") {
				continue // it does not have it
			}
			n++
			compare(`require ["`+requires+`"]; if `+c.test+` { fileinto "yes"; }`, set.name, set.msg)
		}
	}
	t.Logf("%d scripts compared", n)
}
