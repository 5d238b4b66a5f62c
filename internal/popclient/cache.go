package popclient

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"waypost/internal/durable"
)

// cache is what one account's messages say, by their unique ids. It is one file,
// replaced as a whole: a line with the format, a checksum of the rest and whose it
// is, then a line in JSON for each message. It holds what the server has now and
// nothing else, so that it is bounded by the maildrop.
type cache struct {
	path    string // "": nothing is kept
	owner   string
	all     map[string]summary
	changed bool
}

const (
	cacheFormat = "waypost-pop3-cache-1"
	// maxCache bounds the file in bytes.
	maxCache = 512 << 20
)

// openCache reads the account's file. One that is missing, damaged, too large or
// somebody else's counts as empty, and is replaced.
func (o Options) openCache() *cache {
	k := &cache{all: make(map[string]summary)}
	if o.Cache == "" {
		return k
	}
	k.owner = strings.ToLower(o.Addr) + " " + o.User
	sum := sha256.Sum256([]byte(k.owner))
	k.path = filepath.Join(o.Cache, hex.EncodeToString(sum[:16])+".pop3")
	info, err := os.Stat(k.path)
	if err != nil || info.Size() > maxCache {
		return k
	}
	data, err := os.ReadFile(k.path)
	if err != nil {
		return k
	}
	if all, ok := decode(data, k.owner); ok {
		k.all = all
	}
	return k
}

// record is a line of the file.
type record struct {
	UIDL string `json:"u"`
	summary
}

func encode(all map[string]summary, owner string) ([]byte, error) {
	ids := make([]string, 0, len(all))
	for id := range all {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	var body bytes.Buffer
	lines := json.NewEncoder(&body)
	for _, id := range ids {
		if err := lines.Encode(record{id, all[id]}); err != nil {
			return nil, err
		}
	}
	return append([]byte(head(body.Bytes(), owner)), body.Bytes()...), nil
}

func head(body []byte, owner string) string {
	return fmt.Sprintf("%s %x %q\n", cacheFormat, sha256.Sum256(body), owner)
}

func decode(data []byte, owner string) (map[string]summary, bool) {
	end := bytes.IndexByte(data, '\n') + 1
	body := data[end:]
	if string(data[:end]) != head(body, owner) {
		return nil, false
	}
	all := make(map[string]summary)
	for line := range bytes.Lines(body) {
		var r record
		if json.Unmarshal(line, &r) != nil || r.UIDL == "" {
			return nil, false
		}
		all[r.UIDL] = r.summary
	}
	return all, true
}

// get gives what is known of a message; whole: a guess does not count.
func (k *cache) get(uidl string, whole bool) (summary, bool) {
	s, ok := k.all[uidl]
	return s, ok && !(whole && s.Guessed)
}

// put keeps what was read.
func (k *cache) put(uidl string, s summary) {
	if k.path == "" || uidl == "" {
		return
	}
	k.all[uidl], k.changed = s, true
}

// keepOnly forgets what the server does not have any more.
func (k *cache) keepOnly(all []message) {
	there := make(map[string]bool, len(all))
	for _, m := range all {
		there[m.uidl] = true
	}
	for id := range k.all {
		if !there[id] {
			delete(k.all, id)
			k.changed = true
		}
	}
}

// save replaces the file if anything changed.
func (k *cache) save() error {
	if k.path == "" || !k.changed {
		return nil
	}
	data, err := encode(k.all, k.owner)
	if err == nil && len(data) > maxCache {
		return nil // read anew each time
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(k.path), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(k.path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep what was read: %w", err)
	}
	k.changed = false
	return nil
}
