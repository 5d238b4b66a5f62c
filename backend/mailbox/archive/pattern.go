package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/vfs"
)

// inbox is the name of the one folder of an archive without variables.
const inbox = mailbox.Inbox

// Formats of an archive's folders.
const (
	// FormatMbox is a file with messages behind "From " lines; Content-Length counts
	// where it fits (mboxo, mboxcl, mboxcl2). Texts are shown as they stand.
	FormatMbox = "mbox"
	// FormatMboxrd is one in which ">From " is to be shown as "From ".
	FormatMboxrd = "mboxrd"
	// FormatMaildir is a folder with cur and new.
	FormatMaildir = "maildir"
)

// Config is an archive as the settings have it.
type Config struct {
	// Name is the namespace: its folders are Name/..., or Name alone.
	Name string `toml:"name"`
	// Path is where they are, such as "/srv/archive/{user}/{year}/{month}/{day}.mbox".
	// {user}, {local} and {domain} are the user's; {year}, {month}, {day} and {name}, each
	// at most once, are the parts of the folder's name, in this order. Without
	// any of these the archive is one folder.
	Path   string `toml:"path"`
	Format string `toml:"format"`
}

var (
	placeholder = regexp.MustCompile(`\{[^{}]*\}`)
	variables   = map[string]string{"{year}": "[0-9]{4}", "{month}": "[0-9]{1,2}", "{day}": "[0-9]{1,2}", "{name}": ".+"}
)

// Validate says what is wrong.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, a ...any) {
		errs = append(errs, fmt.Errorf("archive %q: "+format, append([]any{c.Name}, a...)...))
	}
	if !validPart(c.Name) || strings.EqualFold(c.Name, "INBOX") || strings.ContainsAny(c.Name, "*%") {
		bad("name: say a folder's name of one part that is not INBOX")
	}
	if c.Format != FormatMbox && c.Format != FormatMboxrd && c.Format != FormatMaildir {
		bad("format %q: say mbox, mboxrd or maildir", c.Format)
	}
	if !filepath.IsAbs(c.Path) || filepath.Clean(c.Path) != c.Path || !utf8.ValidString(c.Path) || strings.ContainsAny(c.Path, "\x00\n") {
		bad("path %q: say an absolute path without . and ..", c.Path)
	}
	seen := map[string]bool{}
	for _, p := range placeholder.FindAllString(c.Path, -1) {
		_, variable := variables[p]
		switch {
		case variable && seen[p]:
			bad("path: %s more than once", p)
		case !variable && p != "{user}" && p != "{local}" && p != "{domain}":
			bad("path: %s is not known", p)
		}
		seen[p] = true
	}
	if !seen["{user}"] && (!seen["{local}"] || !seen["{domain}"]) {
		bad("path: without {user}, or {local} and {domain}, several users would see the same mail")
	}
	for part := range strings.SplitSeq(c.Path, "/") {
		if mixed(part) {
			bad("path: %q: what is one user's there may be another's as well: say {local}@{domain} or give each a folder of its own, put {name} into another one, and a character before a number", part)
		}
	}
	if strings.ContainsAny(placeholder.ReplaceAllString(c.Path, ""), "{}") {
		bad("path %q: braces that are not closed", c.Path)
	}
	return errors.Join(errs...)
}

var (
	ofUser  = regexp.MustCompile(`\{(user|local|domain)\}`)
	besides = regexp.MustCompile(`\{(user|local|domain)\}\{|\}\{(user|local|domain)\}`)
)

// mixed tells of an element of the path that may mean the same for two users: a-b@c and a@b-c
// have one {local}-{domain}, and bob's {user}{name} has all of bobby's.
func mixed(part string) bool {
	alone := strings.ReplaceAll(part, "{local}@{domain}", "{user}")
	return len(ofUser.FindAllString(alone, -1)) > 1 || besides.MatchString(alone) || ofUser.MatchString(alone) && strings.Contains(alone, "{name}")
}

// errPath: a user's name that is not possible in a path.
var errPath = errors.New("not possible in a path")

// tree is a pattern for one user: the fixed folders, and the parts below.
type tree struct {
	root  string
	parts []component
	count int // of variables
}

// component is one element of the path.
type component struct {
	// text has the variables still in it; match takes a name apart, or is nil if
	// there are none.
	text  string
	match *regexp.Regexp
}

// compile puts a user's name in.
func (c Config) compile(u director.User) (tree, error) {
	t := tree{root: "/"}
	user := strings.NewReplacer("{user}", string(u), "{local}", u.Local(), "{domain}", u.Domain())
	for part := range strings.SplitSeq(strings.TrimPrefix(c.Path, "/"), "/") {
		text := part
		if strings.Contains(part, "{user}") || strings.Contains(part, "{local}") || strings.Contains(part, "{domain}") {
			if text = user.Replace(part); !safe(text) || strings.ContainsAny(string(u), "/{}\x00") || u.Local() == "" {
				return t, fmt.Errorf("user %q in %s: %w", u, c.Path, errPath)
			}
		}
		var pattern strings.Builder
		at, n := 0, 0
		for _, span := range placeholder.FindAllStringIndex(text, -1) {
			kind, ok := variables[text[span[0]:span[1]]]
			if !ok {
				continue
			}
			pattern.WriteString(regexp.QuoteMeta(text[at:span[0]]) + "(" + kind + ")")
			at, n = span[1], n+1
		}
		t.count += n
		x := component{text: text}
		if n > 0 {
			pattern.WriteString(regexp.QuoteMeta(text[at:]))
			var err error
			if x.match, err = regexp.Compile("^" + pattern.String() + "$"); err != nil {
				return t, fmt.Errorf("user %q in %s: %w", u, c.Path, err)
			}
		}
		if t.count == 0 {
			t.root = filepath.Join(t.root, text)
		} else {
			t.parts = append(t.parts, x)
		}
	}
	return t, nil
}

// safe tells whether text may be one element of a path.
func safe(text string) bool {
	return text != "" && text != "." && text != ".." && len(text) <= 255 && !strings.ContainsAny(text, "/\x00")
}

// validPart tells whether text may be a part of a folder's name.
func validPart(text string) bool {
	return safe(text) && text[0] != '.' && utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

// take takes an element's name apart.
func (x component) take(name string) (values []string, ok bool) {
	if x.match == nil {
		return nil, name == x.text
	}
	m := x.match.FindStringSubmatch(name)
	if m == nil || !safe(name) {
		return nil, false
	}
	for _, v := range m[1:] {
		if !validPart(v) {
			return nil, false
		}
	}
	return m[1:], true
}

// put makes an element's name of values, and gives those that are left.
func (x component) put(values []string) (name string, rest []string, ok bool) {
	used := 0
	name = placeholder.ReplaceAllStringFunc(x.text, func(p string) string {
		if _, is := variables[p]; !is || used >= len(values) {
			return p
		}
		used++
		return values[used-1]
	})
	// What would be taken apart otherwise is another folder's name.
	again, ok := x.take(name)
	return name, values[used:], ok && slices.Equal(again, values[:used])
}

// path gives the file or folder of a folder's name; false for a name that cannot
// be.
func (t tree) path(name string) (string, bool) {
	if t.count == 0 {
		return t.root, name == inbox
	}
	values := strings.Split(name, "/")
	if len(values) != t.count {
		return "", false
	}
	path := t.root
	for _, x := range t.parts {
		element, rest, ok := x.put(values)
		if !ok {
			return "", false
		}
		path, values = filepath.Join(path, element), rest
	}
	return path, true
}

// straight makes sure that no link is on the way from the root to path.
func (t tree) straight(fsys vfs.FS, path string) error {
	for dir := filepath.Dir(path); len(dir) > len(t.root); dir = filepath.Dir(dir) {
		info, err := fsys.Lstat(dir)
		if absent(err) || err == nil && !info.IsDir() {
			return mailbox.ErrNoFolder
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// list gives the names of all folders that there are, at most most of them, as
// directories or as files; warn is told of what cannot be read.
func (t tree) list(fsys vfs.FS, dirs bool, most int, warn func(error)) []string {
	if t.count == 0 {
		return []string{inbox}
	}
	w := walk{fsys: fsys, dirs: dirs, most: most, warn: warn}
	w.below(t.root, t.parts, nil)
	slices.Sort(w.names)
	return w.names
}

type walk struct {
	fsys  vfs.FS
	dirs  bool
	most  int
	warn  func(error)
	names []string
}

// below looks for what parts describe in dir.
func (w *walk) below(dir string, parts []component, values []string) {
	x, rest := parts[0], parts[1:]
	visit := func(name string, mode fs.FileMode) error {
		got, ok := x.take(name)
		if !ok {
			return nil
		}
		all := append(slices.Clone(values), got...)
		switch {
		case len(rest) > 0 && mode.IsDir():
			w.below(filepath.Join(dir, name), rest, all)
		case len(rest) == 0 && (w.dirs && mode.IsDir() || !w.dirs && mode.IsRegular()):
			w.names = append(w.names, strings.Join(all, "/"))
		}
		if len(w.names) >= w.most {
			return errEnough
		}
		return nil
	}
	var err error
	if x.match == nil {
		var info fs.FileInfo
		if info, err = w.fsys.Lstat(filepath.Join(dir, x.text)); err == nil {
			err = visit(x.text, info.Mode())
		}
	} else {
		err = w.fsys.ReadDir(dir, func(e fs.DirEntry) error { return visit(e.Name(), e.Type()) })
	}
	if err != nil && !absent(err) && !errors.Is(err, errEnough) {
		w.warn(err)
	}
}

// errEnough ends a walk.
var errEnough = errors.New("enough folders")
