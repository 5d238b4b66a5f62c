// Package testmail gives tests mail to run on: the corpus of real messages
// where it lies beside the project (../shared/corpus, or MAIL_CORPUS), and
// made messages, awkward in known ways, where it does not. Only tests import it.
package testmail

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Message is one test message.
type Message struct {
	Name string
	// Body has CRLF line ends, and no bare CR or LF: what may come by SMTP.
	Body []byte
}

// Load gives n messages, from the corpus as far as it reaches. tmp is a folder
// to unpack into. real tells whether the corpus was there.
func Load(tmp string, n int) (msgs []Message, real bool, err error) {
	if archive, ok := find(); ok {
		if msgs, err = unpack(archive, tmp, n); err != nil {
			return nil, false, err
		}
		real = true
	}
	for i := len(msgs); i < n; i++ {
		msgs = append(msgs, Make(uint64(i)))
	}
	return msgs, real, nil
}

// find looks for the corpus: MAIL_CORPUS, or beside the module's root.
func find() (string, bool) {
	dir := os.Getenv("MAIL_CORPUS")
	if dir == "" {
		root, err := os.Getwd()
		if err != nil {
			return "", false
		}
		for {
			if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
				break
			}
			up := filepath.Dir(root)
			if up == root {
				return "", false
			}
			root = up
		}
		dir = filepath.Join(root, "..", "shared", "corpus")
	}
	archive := filepath.Join(dir, "mail-corpus.tar.xz")
	if _, err := os.Stat(archive); err != nil {
		return "", false
	}
	_, err := exec.LookPath("xz")
	return archive, err == nil
}

func unpack(archive, tmp string, n int) ([]Message, error) {
	if out, err := exec.Command("tar", "-xJf", archive, "-C", tmp).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("unpack %s: %w: %s", archive, err, out)
	}
	var paths []string
	err := filepath.WalkDir(tmp, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(p, ".eml") {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	if len(paths) > n {
		paths = paths[:n]
	}
	msgs := make([]Message, 0, len(paths))
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		msgs = append(msgs, Message{Name: filepath.Base(p), Body: Wire(b)})
	}
	return msgs, nil
}

// Wire gives a stored message the line ends that SMTP wants. A CR that stands
// alone becomes a line end too, as no client could send it.
func Wire(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	b = bytes.ReplaceAll(b, []byte("\r"), []byte("\n"))
	if len(b) == 0 || b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}

// Make makes a message from a seed: the same seed, the same message.
func Make(seed uint64) Message {
	r := rand.New(rand.NewPCG(seed, 7))
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\r\n", a...) }
	line("From: Sender %d <s%d@example.org>", seed, seed)
	line("To: somebody@example.test")
	line("Subject: made message %d", seed)
	line("Message-ID: <made-%d@example.org>", seed)
	line("Date: Sun, 22 Nov 2026 10:%02d:%02d +0000", seed/60%60, seed%60)
	switch seed % 5 {
	case 1: // lines that look like the end of DATA, and dots to be stuffed
		line("")
		line(".")
		line("..")
		line(".leading dot")
	case 2: // 8-bit text without a declaration
		line("X-Raw: Gr\xfc\xdfe")
		line("")
		line("caf\xe9 \xff\xfe")
	case 3:
		line("MIME-Version: 1.0")
		line("Content-Type: multipart/mixed; boundary=\"=_%d\"", seed)
		line("")
		line("--=_%d", seed)
		line("Content-Type: text/plain")
		line("")
		line("the part that has no end")
	case 4: // no body at all
		return Message{Name: fmt.Sprintf("made-%d", seed), Body: []byte(b.String())}
	default:
		line("")
	}
	for range r.IntN(60) {
		line("%s", strings.Repeat("lorem ipsum ", 1+r.IntN(7)))
	}
	return Message{Name: fmt.Sprintf("made-%d", seed), Body: []byte(b.String())}
}
