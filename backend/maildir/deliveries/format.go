package deliveries

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxLine bounds a line in bytes: a key with each byte encoded, the time, and
// what older versions wrote behind it.
const maxLine = 4096

// Parse reads a log. Lines that it cannot read are skipped, one without an end is
// left out; damaged tells of either. size is up to the end of the last whole
// line, lines counts those that were legible.
func Parse(r io.Reader, visit func(Entry) bool) (size int64, lines int, damaged bool, err error) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		whole, n := err == nil, int64(len(line))
		e, ok := Entry{}, false
		if whole {
			e, ok = parseLine(string(line[:len(line)-1]))
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = br.ReadSlice('\n')
			n += int64(len(line))
		}
		if errors.Is(err, io.EOF) {
			return size, lines, damaged || n > 0, nil
		}
		if err != nil {
			return size, lines, damaged, err
		}
		size += n
		if !ok {
			damaged = true
			continue
		}
		lines++
		if !visit(e) {
			return size, lines, damaged, nil
		}
	}
}

func parseLine(line string) (Entry, bool) {
	f := strings.Split(line, " ")
	// Three fields are a line of four that a crash has cut.
	if len(f) < 2 || len(f) == 3 || strings.Contains(line, "\x00") {
		return Entry{}, false
	}
	at, err := strconv.ParseInt(f[0], 10, 64)
	key, keyErr := url.PathUnescape(f[1])
	e := Entry{At: time.Unix(at, 0), Key: key}
	if err != nil || keyErr != nil || e.check() != nil || at < 0 || at > maxSeconds {
		return Entry{}, false
	}
	return e, true
}

// maxSeconds is the year 9999, so that sums of times do not overflow.
const maxSeconds = 253402300799

func (e Entry) check() error {
	if e.Key == "" || len(e.Key) > MaxKey {
		return fmt.Errorf("key %.40q of %d bytes: %w", e.Key, len(e.Key), ErrBadKey)
	}
	return nil
}

func (e Entry) line() string {
	at := min(max(e.At.Unix(), 0), maxSeconds)
	return strconv.FormatInt(at, 10) + " " + url.PathEscape(e.Key) + "\n"
}
