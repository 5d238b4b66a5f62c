package move

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"waypost/internal/bench"
)

// folders are where the messages are, by turns.
var folders = [...]string{"", ".Work", ".Archive.2025"}

// message is number n: 2 to 6 KB, 4 in the mean, no two alike.
func message(n int) []byte {
	text, _ := bench.StoredMessage()
	more := fmt.Sprintf("This is message %d, and no other one says so.\n", n)
	return append(text, strings.Repeat(more, (1000+n*2654435761%4096)/len(more))...)
}

func name(n int) string {
	b := message(n)
	return fmt.Sprintf("%d.M%dP1.bench,S=%d,W=%d", 1700000000+n, n, len(b), len(b)+strings.Count(string(b), "\n"))
}

// Fill puts n read messages into a Maildir.
func Fill(maildir string, n int) error {
	for _, f := range folders {
		for _, sub := range []string{"cur", "new", "tmp"} {
			if err := os.MkdirAll(filepath.Join(maildir, f, sub), 0o700); err != nil {
				return err
			}
		}
		if f != "" {
			if err := os.WriteFile(filepath.Join(maildir, f, "maildirfolder"), nil, 0o600); err != nil {
				return err
			}
		}
	}
	for i := range n {
		if err := put(filepath.Join(maildir, folders[i%len(folders)], "cur", name(i)+":2,S"), i); err != nil {
			return err
		}
	}
	return nil
}

func put(path string, n int) error {
	if err := os.WriteFile(path, message(n), 0o600); err != nil {
		return err
	}
	at := time.Unix(1_700_000_000+int64(n), 0)
	return os.Chtimes(path, at, at)
}

// The 100 changes: new messages, flags, messages removed.
const (
	Added   = 50
	Flagged = 30
	Removed = 20
)

// Message is number n as it comes, with CRLF.
func Message(n int) []byte { return bytes.ReplaceAll(message(n), []byte("\n"), []byte("\r\n")) }

// change makes 100 changes in a Maildir of size messages. more is how many messages it
// adds.
func change(maildir string, size int) (more int, err error) {
	for i := range Added {
		err = errors.Join(err, put(filepath.Join(maildir, "new", name(size+i)), size+i))
	}
	at := func(i int) string { return filepath.Join(maildir, folders[i%len(folders)], "cur", name(i)+":2,") }
	for i := range Flagged {
		err = errors.Join(err, os.Rename(at(i)+"S", at(i)+"RS"))
	}
	for i := range Removed {
		err = errors.Join(err, os.Remove(at(Flagged+i)+"S"))
	}
	return Added - Removed, err
}

// count counts the messages in a Maildir.
func count(maildir string) (n int, err error) {
	err = filepath.WalkDir(maildir, func(path string, e fs.DirEntry, err error) error {
		if dir := filepath.Base(filepath.Dir(path)); err == nil && !e.IsDir() && (dir == "cur" || dir == "new") {
			n++
		}
		return err
	})
	return n, err
}
