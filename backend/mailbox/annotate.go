package mailbox

import (
	"fmt"
	"strings"
	"time"
)

// NewMessage is a message for Append. A zero Date is the time of the Append.
type NewMessage struct {
	Message Staged
	Flags   Flags
	Date    time.Time
}

// AppendResult has the UIDs of appended messages, in the order of these.
type AppendResult struct {
	UIDValidity uint32
	UIDs        []UID
}

// Bounds of a folder's metadata, and of the account's; names and values in bytes.
const (
	MaxMetadataEntries = 100
	MaxMetadataName    = 1000
	MaxMetadataValue   = 64 << 10
)

// UseEntry is the metadata entry of a folder's special use (RFC 6154, Section 4).
const UseEntry = "/private/specialuse"

// ParseUse gives the one spelling of a special use (RFC 6154, Section 2; RFC
// 8457, Section 4), or ErrUse. \All and \Flagged are among those a store cannot
// take: a folder of its own messages would not be what these promise.
func ParseUse(text string) (use string, err error) {
	for _, use := range []string{`\Archive`, `\Drafts`, `\Important`, `\Junk`, `\Sent`, `\Trash`} {
		if strings.EqualFold(use, text) {
			return use, nil
		}
	}
	return "", fmt.Errorf("special use %.40q: %w", text, ErrUse)
}

// MetadataChange is a change of metadata that was looked over.
type MetadataChange struct {
	// Set has the new values, nil for an entry that goes.
	Set map[string]*string
	// Use is the new special use, "" for none, if SetsUse says that there is one.
	Use     string
	SetsUse bool
}

// CheckMetadata looks a change over before a store makes it: names come out in
// lower case, and the special use apart. folder is "" for the account, which has
// no use, like INBOX. ErrTooMuchMetadata, ErrUse.
func CheckMetadata(folder string, change map[string]*string) (c MetadataChange, err error) {
	c.Set = make(map[string]*string, len(change))
	for name, value := range change {
		name = strings.ToLower(name)
		if name != UseEntry {
			if name == "" || len(name) > MaxMetadataName || value != nil && len(*value) > MaxMetadataValue {
				return c, fmt.Errorf("entry %.40q: %w", name, ErrTooMuchMetadata)
			}
			c.Set[name] = value
			continue
		}
		c.SetsUse = true
		if value == nil || *value == "" {
			continue
		}
		if c.Use, err = ParseUse(*value); err == nil && (folder == "" || folder == Inbox) {
			err = fmt.Errorf("special use of %q: %w", folder, ErrUse)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// Updates is what changed in an account since a version.
type Updates struct {
	// Version is that of the last change: the next call's since.
	Version uint64
	// Folders are those in which messages came, went or changed, at most
	// MaxUpdates, by name.
	Folders []string
	// Listing: folders, subscriptions, metadata or ACLs changed.
	Listing bool
	// All: anything may have changed; it is not known since when, or too much.
	All bool
}

// MaxUpdates bounds Updates.Folders.
const MaxUpdates = 1000
