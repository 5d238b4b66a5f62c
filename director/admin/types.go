package admin

import (
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/spoolapi"
)

// User is what is known of one user.
type User struct {
	User  director.User      `json:"user"`
	Home  director.BackendID `json:"home"`
	State director.State     `json:"state"`
	Epoch director.Epoch     `json:"epoch"`
	// UsedBytes, UsedMessages and Sessions are the home's answer. They are null
	// in lists, and where the home gave none; then UsageError says why.
	UsedBytes    *int64 `json:"used_bytes"`
	UsedMessages *int64 `json:"used_messages"`
	Sessions     *int   `json:"sessions"`
	UsageError   string `json:"usage_error,omitempty"`
	// QuotaBytes and QuotaMessages: 0 is unlimited.
	QuotaBytes    int64 `json:"quota_bytes"`
	QuotaMessages int64 `json:"quota_messages"`
	Disabled      bool  `json:"disabled"`
	// HasPassword is false for a user who cannot log in for want of one.
	HasPassword bool `json:"has_password"`
	// Services that may be used; empty is all.
	Services []string `json:"services"`
	// Forward are addresses that get all mail as well; with ForwardOnly the
	// mailbox itself gets none of it.
	Forward     []string `json:"forward"`
	ForwardOnly bool     `json:"forward_only"`
	// Reply is null for a user whose mail is not answered.
	Reply *director.AutoReply `json:"reply"`
	// Group is the sharing group, "" for none.
	Group string `json:"group"`
	// FullText: an index makes searches in texts fast.
	FullText bool      `json:"full_text"`
	Created  time.Time `json:"created,omitzero"`
	// Move is the unfinished move of this user, if there is one.
	Move *Move `json:"move,omitempty"`
}

// CreateUser asks for a new user. At most one of Password and PasswordHash is
// given; with neither nobody can log in.
type CreateUser struct {
	User string `json:"user"`
	// Password is hashed by the director; it is never stored or logged.
	Password string `json:"password,omitempty"`
	// PasswordHash is as other systems wrote it: crypt(3), PHC, or Dovecot's
	// {SCHEME} form.
	PasswordHash  string   `json:"password_hash,omitempty"`
	QuotaBytes    int64    `json:"quota_bytes,omitempty"`
	QuotaMessages int64    `json:"quota_messages,omitempty"`
	Services      []string `json:"services,omitempty"`
	Disabled      bool     `json:"disabled,omitempty"`
	// Forward, ForwardOnly, Reply and Group are as in User. An import does not compare
	// them for a user who is there, if they are left out.
	Forward     []string            `json:"forward,omitempty"`
	ForwardOnly bool                `json:"forward_only,omitempty"`
	Reply       *director.AutoReply `json:"reply,omitempty"`
	Group       string              `json:"group,omitempty"`
	// Tags say where the user may live: on backends that have all of them.
	Tags []string `json:"tags,omitempty"`
	// Home names the backend; empty: that of the group's members, or else, of those
	// where the user may live, the one with the most free weighted room.
	Home director.BackendID `json:"home,omitempty"`
	// Maildir, where not nil, is taken over as the user's mailbox; Home must be
	// given.
	Maildir *Maildir `json:"maildir,omitempty"`
}

// UpdateUser changes what is not nil.
type UpdateUser struct {
	Password      *string   `json:"password,omitempty"`
	PasswordHash  *string   `json:"password_hash,omitempty"` // "" takes the password away
	QuotaBytes    *int64    `json:"quota_bytes,omitempty"`
	QuotaMessages *int64    `json:"quota_messages,omitempty"`
	Services      *[]string `json:"services,omitempty"`
	Disabled      *bool     `json:"disabled,omitempty"`
	Forward       *[]string `json:"forward,omitempty"`
	ForwardOnly   *bool     `json:"forward_only,omitempty"`
	FullText      *bool     `json:"full_text,omitempty"`
	// Reply replaces the whole of it; one without a kind takes it away.
	Reply *director.AutoReply `json:"reply,omitempty"`
	// Group, "" for none, is refused where its members live on another backend.
	Group *string `json:"group,omitempty"`
}

// Services that a user can be limited to.
func Services() []string { return []string{"imap", "managesieve", "pop3", "submission"} }

// UserFilter chooses users of a list; empty fields choose all.
type UserFilter struct {
	Domain string
	Home   director.BackendID
	// Prefix is the beginning of the user's key.
	Prefix string
}

// Results of an imported line.
const (
	ImportCreated = "created"
	// ImportExists: the user is there already with just these values (the home
	// excepted, if the line names none): an import can simply be run again.
	ImportExists = "exists"
	// ImportFailed: nothing was done for this line; Code and Text say why.
	ImportFailed = "failed"
)

// ImportResult tells what became of one line. Results come in the order in
// which lines are done.
type ImportResult struct {
	Line   int                `json:"line"` // from 1; blank lines count
	User   string             `json:"user"`
	Result string             `json:"result"`
	Home   director.BackendID `json:"home,omitempty"`
	Code   string             `json:"code,omitempty"`
	Text   string             `json:"text,omitempty"`
}

// CreateDomain asks for a new domain.
type CreateDomain struct {
	Domain string `json:"domain"`
}

// Domain is one domain whose mail the cluster takes.
type Domain struct {
	Domain    string    `json:"domain"`
	Users     int       `json:"users"`
	Addresses int       `json:"addresses"`
	Created   time.Time `json:"created"`
}

// Address is what one address means. "*@domain" is the domain's catch-all.
type Address struct {
	Address string   `json:"address"`
	Members []string `json:"members"`
}

// PutAddress sets what an address means. Members may be addresses themselves,
// loops end; those of other domains get their mail by the mx's smarthost.
type PutAddress struct {
	Members []string `json:"members"`
}

// Done answers a change that has nothing to tell.
type Done struct {
	Done bool `json:"done"`
}

// Backend is a storage node. Sizes are what the node tells; they are null, as
// are users and sessions that only the node knows, while it does not.
type Backend struct {
	ID     director.BackendID    `json:"id"`
	Kind   string                `json:"kind"`
	State  director.BackendState `json:"state"`
	Weight int                   `json:"weight"`
	// Users counts those whose home it is by the directory.
	Users     int    `json:"users"`
	UsedBytes *int64 `json:"used_bytes"`
	// CapacityBytes is what may be filled with mail; FreeBytes the rest of it.
	CapacityBytes *int64 `json:"capacity_bytes"`
	FreeBytes     *int64 `json:"free_bytes"`
	Sessions      *int   `json:"sessions"`
	Node          string `json:"node,omitempty"`
	// Alive is null where nothing watches the node: kind dovecot.
	Alive   *bool             `json:"alive"`
	Dovecot *director.Dovecot `json:"dovecot,omitempty"`
}

// PutBackend adds a backend of kind dovecot, or sets all of what may be set of
// one that is there: a Waypost backend adds itself when it first starts.
type PutBackend struct {
	Kind string `json:"kind"`
	// Weight is its share of new users; 0 means 100.
	Weight        int               `json:"weight,omitempty"`
	CapacityBytes int64             `json:"capacity_bytes,omitempty"`
	Dovecot       *director.Dovecot `json:"dovecot,omitempty"`
}

// UpdateBackend changes what is not nil.
type UpdateBackend struct {
	State         *director.BackendState `json:"state,omitempty"`
	Weight        *int                   `json:"weight,omitempty"`
	CapacityBytes *int64                 `json:"capacity_bytes,omitempty"`
}

// Node is one process of the cluster as the membership sees it.
type Node struct {
	Role  string `json:"role"`
	ID    string `json:"id"`
	Node  string `json:"node"` // host:port of its node listener
	Alive bool   `json:"alive"`
	// Since is when this director last saw it come or go.
	Since time.Time `json:"since,omitzero"`
	// Load is told by backends only.
	Load *Load `json:"load,omitempty"`
}

// Load is what a backend tells of itself by gossip, some seconds late.
type Load struct {
	Users         int   `json:"users"`
	Sessions      int   `json:"sessions"`
	UsedBytes     int64 `json:"used_bytes"`
	CapacityBytes int64 `json:"capacity_bytes"`
}

// Status is the whole cluster on one page.
type Status struct {
	Cluster  string    `json:"cluster"`
	Director string    `json:"director"` // who answers
	Nodes    []Node    `json:"nodes"`
	Backends []Backend `json:"backends"`
	// Users counts by state: "active", "busy", "deleted".
	Users map[director.State]int `json:"users"`
	// Domains counts the domains; null while the store cannot be read.
	Domains       *int            `json:"domains"`
	MovesInFlight int             `json:"moves_in_flight"`
	Directory     DirectoryStatus `json:"directory"`
}

// DirectoryStatus tells how this director sees the directory.
type DirectoryStatus struct {
	// Stale: the store cannot be reached; what is told is the last known.
	Stale bool   `json:"stale"`
	LagMS int64  `json:"lag_ms"`
	Era   string `json:"era"`
}

// NodeError tells that one node's part is missing from an answer.
type NodeError struct {
	Node string `json:"node"` // "proxy/p1"
	Text string `json:"text"`
}

// Sessions are clients' sessions at all proxies.
type Sessions struct {
	Sessions []control.Session `json:"sessions"`
	Errors   []NodeError       `json:"errors,omitempty"`
}

// Kicked counts ended sessions. They are ended at the proxies and then at the
// backends; one that both had is counted once.
type Kicked struct {
	Kicked int         `json:"kicked"`
	Errors []NodeError `json:"errors,omitempty"`
}

// SpoolEntry is one spooled message of an mx.
type SpoolEntry = spoolapi.Entry

// Spool is what lies in the spools of all mx.
type Spool struct {
	Entries []SpoolEntry `json:"entries"`
	Errors  []NodeError  `json:"errors,omitempty"`
}

// SpoolRequest names entries: one ID, those of a User, or All; of one Node, or
// of all mx where that is empty. Drop takes an ID only.
type SpoolRequest struct {
	Node string        `json:"node,omitempty"`
	ID   string        `json:"id,omitempty"`
	User director.User `json:"user,omitempty"`
	All  bool          `json:"all,omitempty"`
}

// SpoolDone counts the entries that were set to be tried now, or dropped.
type SpoolDone struct {
	Entries int         `json:"entries"`
	Errors  []NodeError `json:"errors,omitempty"`
}

// CreateMove asks for a move of a user and of the other members of its sharing
// group; a mover carries them out.
type CreateMove struct {
	User string             `json:"user"`
	To   director.BackendID `json:"to"`
}

// Move is a move's journal.
type Move struct {
	ID    string             `json:"id"`
	User  director.User      `json:"user"`
	From  director.BackendID `json:"from"`
	To    director.BackendID `json:"to"`
	Phase director.MovePhase `json:"phase"`
	// Result is "" while it is on its way, then "done" or "undone".
	Result string `json:"result"`
	Reason string `json:"reason,omitempty"`
	// Epoch is the user's when the move was planned.
	Epoch       director.Epoch `json:"epoch"`
	Messages    int64          `json:"messages"`
	Bytes       int64          `json:"bytes"`
	CopiedBytes int64          `json:"copied_bytes"`
	Passes      int            `json:"passes"`
	BusyMS      int64          `json:"busy_ms"`
	Receipt     string         `json:"receipt"` // hex digest of the manifest
	// Waiting is why it does not go on, or slowly; Tries how often it was put off, and
	// NotBefore when it is tried again.
	Waiting   string    `json:"waiting,omitempty"`
	Tries     int       `json:"tries,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	Created   time.Time `json:"created"`
	BusySince time.Time `json:"busy_since,omitzero"`
	Finished  time.Time `json:"finished,omitzero"`
	// Others, in the answer to CreateMove, are the moves of the other members of the
	// sharing group who do not live there yet. One that could not be planned is
	// "undone", without an ID.
	Others []Move `json:"others,omitempty"`
}

// MoveOf makes the API's form of a journal.
func MoveOf(m director.Move) Move {
	out := Move{
		ID: m.ID, User: m.User, From: m.Source, To: m.Target, Phase: m.Phase, Reason: m.Reason, Epoch: m.Epoch,
		Messages: m.Messages, Bytes: m.Bytes, CopiedBytes: m.CopiedBytes, Passes: m.Passes, BusyMS: m.BusyMS,
		Receipt: m.Receipt, Created: m.Created, BusySince: m.BusySince, Finished: m.Finished,
		Waiting: m.Waiting, Tries: m.Tries, NotBefore: m.NotBefore,
	}
	if m.Phase.Finished() {
		out.Result = string(m.Phase)
	}
	return out
}

// Lookup tells foreign software where a user is served.
type Lookup struct {
	User  director.User      `json:"user"`
	Home  director.BackendID `json:"home"`
	Epoch director.Epoch     `json:"epoch"`
	State director.State     `json:"state"`
	Kind  string             `json:"kind"`
	// Node is the home's node listener; Dovecot, where Kind is dovecot, has its
	// addresses instead.
	Node    string            `json:"node,omitempty"`
	Dovecot *director.Dovecot `json:"dovecot,omitempty"`
	// Stale: the directory cannot be reached; this is the last known.
	Stale bool `json:"stale"`
}
