package cli

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
)

const (
	formatJSON = "json"
	formatCSV  = "csv"
)

// maxImportLine bounds a line in bytes.
const maxImportLine = 64 << 10

func formatOf(name string) string {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		return formatCSV
	case ".json", ".jsonl", ".ndjson":
		return formatJSON
	}
	return ""
}

// openLines reads the lines of an import. What it returns gives, at each call,
// some lines for the admin API, each a CreateUser in JSON; io.EOF at the end. A
// line that is wrong is told to failed, and sent as a blank line, so that the
// director counts lines as the file does.
func openLines(in io.Reader, format string, failed func(admin.ImportResult)) (func() ([]byte, error), error) {
	r := bufio.NewReaderSize(in, maxImportLine)
	if format == "" {
		var err error
		if format, err = sniff(r); err != nil {
			return nil, err
		}
	}
	if format == formatJSON {
		l := &jsonLines{r: r, failed: failed}
		return l.next, nil
	}
	return openCSV(r, failed)
}

// sniff tells JSON lines from CSV by the first character that is no space.
func sniff(r *bufio.Reader) (string, error) {
	for n := 1; n <= maxImportLine; n++ {
		b, err := r.Peek(n)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return formatJSON, nil // nothing to import
			}
			return "", fmt.Errorf("read the lines to import: %w", err)
		}
		switch c := b[n-1]; c {
		case ' ', '\t', '\r', '\n':
		case '{':
			return formatJSON, nil
		default:
			return formatCSV, nil
		}
	}
	return formatCSV, nil
}

// importUser is a line as it is written: a CreateUser, with another name for
// the hash, and without a password in clear.
type importUser struct {
	User          string              `json:"user"`
	Hash          string              `json:"hash"`
	PasswordHash  string              `json:"password_hash"`
	QuotaBytes    int64               `json:"quota_bytes"`
	QuotaMessages int64               `json:"quota_messages"`
	Services      []string            `json:"services"`
	Disabled      bool                `json:"disabled"`
	Forward       []string            `json:"forward"`
	ForwardOnly   bool                `json:"forward_only"`
	Reply         *director.AutoReply `json:"reply"` // JSON lines only
	Tags          []string            `json:"tags"`
	Home          director.BackendID  `json:"home"`
	Maildir       string              `json:"maildir"`
	MaildirMode   control.AdoptMode   `json:"maildir_mode"`
	POP3UIDL      string              `json:"pop3_uidl"`
}

// maildir is what is to be taken over; nil: nothing.
func (u importUser) maildir() (*admin.Maildir, error) {
	if u.Maildir == "" {
		if u.MaildirMode != "" || u.POP3UIDL != "" {
			return nil, errors.New("maildir_mode and pop3_uidl tell of a maildir, and there is none")
		}
		return nil, nil
	}
	if u.Home == "" {
		return nil, errors.New("a maildir lies on one backend: name it as home")
	}
	if u.MaildirMode != "" && !u.MaildirMode.Valid() {
		return nil, fmt.Errorf("maildir_mode %q: want copy, link or move", u.MaildirMode)
	}
	return &admin.Maildir{Path: u.Maildir, Mode: u.MaildirMode, POP3UIDL: u.POP3UIDL}, nil
}

// line gives the form that is sent.
func (u importUser) line() ([]byte, error) {
	if u.Hash != "" && u.PasswordHash != "" && u.Hash != u.PasswordHash {
		return nil, errors.New("hash and password_hash are the same thing, but differ here")
	}
	if _, err := director.ParseUser(u.User); err != nil {
		return nil, err
	}
	if u.PasswordHash == "" {
		u.PasswordHash = u.Hash
	}
	mail, err := u.maildir()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(admin.CreateUser{
		User: u.User, PasswordHash: u.PasswordHash, QuotaBytes: u.QuotaBytes, QuotaMessages: u.QuotaMessages,
		Services: u.Services, Disabled: u.Disabled, Home: u.Home, Maildir: mail,
		Forward: u.Forward, ForwardOnly: u.ForwardOnly, Reply: u.Reply, Tags: u.Tags,
	})
	return append(b, '\n'), err
}

func failure(line int, user string, err error) admin.ImportResult {
	return admin.ImportResult{Line: line, User: user, Result: admin.ImportFailed, Code: admin.CodeBad, Text: err.Error()}
}

// jsonLines reads one object a line.
type jsonLines struct {
	r      *bufio.Reader
	n      int
	failed func(admin.ImportResult)
}

func (l *jsonLines) next() ([]byte, error) {
	text, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("line %d is longer than %d bytes", l.n+1, maxImportLine)
	}
	if err != nil && (!errors.Is(err, io.EOF) || len(text) == 0) {
		return nil, err
	}
	l.n++
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return []byte("\n"), nil
	}
	var u importUser
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	err = dec.Decode(&u)
	if err == nil && dec.More() {
		err = errors.New("more than one object on a line")
	}
	var line []byte
	if err == nil {
		line, err = u.line()
	}
	if err != nil {
		l.failed(failure(l.n, u.User, err))
		return []byte("\n"), nil
	}
	return line, nil
}

// csvLines reads records under a head (RFC 4180).
type csvLines struct {
	r      *csv.Reader
	head   []string
	sent   int // lines given so far, so that numbers agree with the file's
	failed func(admin.ImportResult)
}

func openCSV(r io.Reader, failed func(admin.ImportResult)) (func() ([]byte, error), error) {
	c := csv.NewReader(r)
	c.TrimLeadingSpace = true
	head, err := c.Read()
	if err != nil {
		return nil, fmt.Errorf("the first line of a CSV file names its columns: %w", err)
	}
	seen := map[string]bool{}
	for i, name := range head {
		name = strings.ToLower(strings.TrimSpace(name))
		if i == 0 {
			name = strings.TrimPrefix(name, "\ufeff") // spreadsheets put a byte order mark there
		}
		if err := new(importUser).set(name, ""); err != nil || seen[name] {
			return nil, fmt.Errorf("column %q of the first line: want each at most once of user, password_hash, quota_bytes, quota_messages, services, disabled, forward, forward_only, tags, home, maildir, maildir_mode, pop3_uidl", name)
		}
		head[i], seen[name] = name, true
	}
	if !seen["user"] {
		return nil, errors.New("the first line names no column \"user\"")
	}
	l := &csvLines{r: c, head: head, failed: failed}
	return l.next, nil
}

func (l *csvLines) next() ([]byte, error) {
	record, err := l.r.Read()
	var wrong *csv.ParseError
	switch {
	case errors.As(err, &wrong):
		l.failed(failure(wrong.StartLine, "", wrong.Err))
		if errors.Is(err, csv.ErrFieldCount) {
			return nil, nil
		}
		// Behind a misplaced quote nothing can be told apart.
		return nil, fmt.Errorf("line %d: %w: mend it and run the import again", wrong.StartLine, wrong.Err)
	case err != nil:
		return nil, err
	}
	at, _ := l.r.FieldPos(0)
	var u importUser
	for i, name := range l.head {
		if err = u.set(name, strings.TrimSpace(record[i])); err != nil {
			break
		}
	}
	var line []byte
	if err == nil {
		line, err = u.line()
	}
	if err != nil {
		l.failed(failure(at, u.User, err))
		return nil, nil
	}
	blank := at - l.sent - 1
	l.sent = at
	return append(bytes.Repeat([]byte("\n"), blank), line...), nil
}

// set takes the value of a column.
func (u *importUser) set(column, value string) error {
	var err error
	switch column {
	case "user":
		u.User = value
	case "hash":
		u.Hash = value
	case "password_hash":
		u.PasswordHash = value
	case "home":
		u.Home = director.BackendID(value)
	case "maildir":
		u.Maildir = value
	case "maildir_mode":
		u.MaildirMode = control.AdoptMode(value)
	case "pop3_uidl":
		u.POP3UIDL = value
	case "services":
		u.Services = strings.Fields(value)
	case "quota_bytes":
		u.QuotaBytes, err = number(value)
	case "quota_messages":
		u.QuotaMessages, err = number(value)
	case "forward":
		u.Forward = strings.Fields(value)
	case "tags":
		u.Tags = strings.Fields(value)
	case "disabled":
		u.Disabled, err = yesNo(value)
	case "forward_only":
		u.ForwardOnly, err = yesNo(value)
	default:
		return fmt.Errorf("there is no column %q", column)
	}
	if err != nil {
		return fmt.Errorf("%s: %q is none", column, value)
	}
	return nil
}

func number(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	return strconv.ParseInt(s, 10, 64)
}

func yesNo(s string) (bool, error) {
	if s == "" {
		return false, nil
	}
	return strconv.ParseBool(s)
}
