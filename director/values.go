package director

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The values beside the location record are JSON with a version field; they
// are read far less often, and operators may want to look.

// Account is account/<user>: who may log in, and what the user may use.
type Account struct {
	Version int `json:"v"`
	// Hash is the password hash: argon2id in PHC form, crypt(3), or Dovecot's
	// {SCHEME} form. Empty: nobody can log in.
	Hash string `json:"hash,omitempty"`
	// QuotaBytes and QuotaMessages limit the mailbox; 0 is unlimited.
	QuotaBytes    int64 `json:"quota_bytes,omitempty"`
	QuotaMessages int64 `json:"quota_messages,omitempty"`
	// Disabled refuses logins and mail; what is stored stays.
	Disabled bool `json:"disabled,omitempty"`
	// Services that may be used: "imap", "managesieve", "pop3",
	// "submission"; empty is all.
	Services []string `json:"services,omitempty"`
	// Forward are addresses that get all mail as well; with ForwardOnly the
	// mailbox itself gets none of it.
	Forward     []string `json:"forward,omitempty"`
	ForwardOnly bool     `json:"forward_only,omitempty"`
	// Reply answers mail by itself; nil does not.
	Reply *AutoReply `json:"reply,omitempty"`
	// Group names the users who may share folders with each other; "" is none.
	// They live on one backend and move together (see ValidGroup).
	Group string `json:"group,omitempty"`
	// FullText: the home keeps an index of the texts of the user's messages, if its
	// settings let it.
	FullText bool `json:"full_text,omitempty"`
	// Tags limit where plans move the user: to backends that have all of them.
	Tags    []string  `json:"tags,omitempty"`
	Created time.Time `json:"created"`
}

// Kinds of automatic replies.
const (
	// ReplyVacation answers each correspondent once in Days.
	ReplyVacation = "vacation"
	// ReplyAlways answers each message.
	ReplyAlways = "always"
	// ReplyEcho answers each message with itself.
	ReplyEcho = "echo"
)

// AutoReply is an automatic reply of an account, for those who write no
// scripts. Like a script's it goes to persons only: never to lists, machines or
// the null sender.
type AutoReply struct {
	Kind string `json:"kind"`
	// Subject, where empty, is "Auto: " and that of the message.
	Subject string `json:"subject,omitempty"`
	Text    string `json:"text,omitempty"`
	// From and Until bound the time in which it is sent; zero does not.
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Days between two vacation replies to one correspondent; 0 is 7.
	Days int `json:"days,omitempty"`
}

// MaxForwards and MaxReplyText bound what an account may carry: every tier has
// all of them in memory.
const (
	MaxForwards  = 50
	MaxReplyText = 16 << 10
)

// MaxGroupMembers bounds a sharing group: its members are listed together, and
// move together.
const MaxGroupMembers = 500

// ValidGroup takes the name of a sharing group: 1 to 64 of a-z, 0-9, '.', '_' and
// '-', beginning with a letter or a digit.
func ValidGroup(name string) error {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, odd) || strings.ContainsRune("._-", rune(name[0])) {
		return fmt.Errorf("sharing group %q: want 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit: %w", name, ErrInvalid)
	}
	return nil
}

// Validate says what is wrong with an account's group, forwards and reply.
func (a Account) Validate() error {
	if a.Group != "" {
		if err := ValidGroup(a.Group); err != nil {
			return err
		}
	}
	if err := ValidTags(a.Tags); err != nil {
		return err
	}
	if len(a.Forward) > MaxForwards {
		return fmt.Errorf("%d forwards, more than %d: use an alias: %w", len(a.Forward), MaxForwards, ErrInvalid)
	}
	if a.ForwardOnly && len(a.Forward) == 0 {
		return fmt.Errorf("forwards only, and to nobody: %w", ErrInvalid)
	}
	for _, to := range a.Forward {
		if err := validForward(to); err != nil {
			return fmt.Errorf("forward to %q: %w", to, err)
		}
	}
	if a.Reply == nil {
		return nil
	}
	return a.Reply.validate()
}

// validForward takes local@domain of any domain: what else a local part may be
// made of only its own domain knows. RFC 5321, Section 4.5.3.1.3, bounds it.
func validForward(to string) error {
	at := strings.LastIndexByte(to, '@')
	odd := func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("<>,;", r)
	}
	if at <= 0 || len(to) > 254 || !utf8.ValidString(to) || strings.ContainsFunc(to, odd) {
		return fmt.Errorf("want local@domain: %w", ErrInvalid)
	}
	return ValidDomain(strings.ToLower(to[at+1:]))
}

func (r *AutoReply) validate() error {
	switch {
	case r.Kind != ReplyVacation && r.Kind != ReplyAlways && r.Kind != ReplyEcho:
		return fmt.Errorf("reply of kind %q: say %s, %s or %s: %w", r.Kind, ReplyVacation, ReplyAlways, ReplyEcho, ErrInvalid)
	case r.Kind != ReplyEcho && strings.TrimSpace(r.Text) == "":
		return fmt.Errorf("reply without a text: %w", ErrInvalid)
	case len(r.Text) > MaxReplyText || len(r.Subject) > 500:
		return fmt.Errorf("reply longer than %d bytes, or its subject than 500: %w", MaxReplyText, ErrInvalid)
	case !r.From.IsZero() && !r.Until.IsZero() && !r.From.Before(r.Until):
		return fmt.Errorf("reply from %s until %s: %w", r.From.Format(time.DateOnly), r.Until.Format(time.DateOnly), ErrInvalid)
	case !utf8.ValidString(r.Text) || strings.ContainsRune(r.Text, 0):
		return fmt.Errorf("reply whose text is no text: %w", ErrInvalid)
	case !utf8.ValidString(r.Subject) || strings.ContainsFunc(r.Subject, unicode.IsControl):
		return fmt.Errorf("reply whose subject is not one line of text: %w", ErrInvalid)
	case r.Days < 0 || r.Days > 365:
		return fmt.Errorf("reply every %d days: say 1 to 365: %w", r.Days, ErrInvalid)
	}
	return nil
}

// Address is address/<domain>/<local>: what an address means. A user's own
// address needs none: without a record, local@domain means the user of that
// name, and then the domain's catch-all.
type Address struct {
	Version int `json:"v"`
	// Members are the addresses that mail for this one goes to: one user for a
	// further address of a mailbox, several for an alias or a list. Members
	// that are addresses themselves are expanded; loops end. Members of other
	// domains are forwards to the outside, which need a smarthost at the mx.
	Members []string `json:"members"`
}

// Domain is domain/<domain>: a domain whose mail this cluster takes.
type Domain struct {
	Version int       `json:"v"`
	Created time.Time `json:"created"`
}

// BackendState says what new work a backend gets.
type BackendState string

const (
	// BackendActive takes new users and moves.
	BackendActive BackendState = "active"
	// BackendDraining serves what it has, and gets no new users.
	BackendDraining BackendState = "draining"
	// BackendOffline is known to be away.
	BackendOffline BackendState = "offline"
	// BackendLost will not come back: its users may be given to others, restored
	// from a backup. It refuses to start, and to go on, while this is said of it.
	BackendLost BackendState = "lost"
)

// Kinds of backend.
const (
	KindWaypost = "waypost"
	KindDovecot = "dovecot"
)

// Backend is backend/<id>: where a storage node is and what it may hold.
type Backend struct {
	Version int          `json:"v"`
	Kind    string       `json:"kind"`
	State   BackendState `json:"state"`
	// Weight is its share of new users; 100 is usual.
	Weight int `json:"weight"`
	// CapacityBytes is what may be filled with mail; 0: the disk's size.
	CapacityBytes int64 `json:"capacity_bytes,omitempty"`
	// Tags are what it offers to users with tags: a place, a kind of disk.
	Tags []string `json:"tags,omitempty"`
	// Node is the host:port of a waypost backend's node listener.
	Node string `json:"node,omitempty"`
	// Dovecot is set for KindDovecot.
	Dovecot *Dovecot `json:"dovecot,omitempty"`
}

// Dovecot says how a foreign backend of kind dovecot is reached. A user there
// has no fence: I1 to I5 do not hold for it.
type Dovecot struct {
	IMAP string `json:"imap"` // host:port
	POP3 string `json:"pop3"`
	LMTP string `json:"lmtp"`
	// TLS is "none", "starttls" or "tls" toward IMAP and POP3.
	TLS string `json:"tls"`
	// CAFile on the proxies verifies the TLS certificate; empty: the system's.
	CAFile string `json:"ca_file,omitempty"`
	// MasterUser logs in as "<user>*<master>" with the password found in
	// MasterPasswordFile on the proxies; empty: with the user's own password.
	MasterUser         string `json:"master_user,omitempty"`
	MasterPasswordFile string `json:"master_password_file,omitempty"`
	// Trusted: the backend believes our word on the client's address (ID for
	// IMAP, XCLIENT for POP3 and LMTP).
	Trusted bool `json:"trusted,omitempty"`
}

// MovePhase is how far a move has come. Each phase says what has been done;
// rebalance's step table says what comes next.
type MovePhase string

const (
	// PhasePlanned: the journal exists; nothing else may.
	PhasePlanned MovePhase = "planned"
	// PhaseCopying: hot passes run into the target's staging.
	PhaseCopying MovePhase = "copying"
	// PhaseBusy: the record is busy at Epoch+1.
	PhaseBusy MovePhase = "busy"
	// PhaseFrozen: the source gave the manifest digest in Receipt.
	PhaseFrozen MovePhase = "frozen"
	// PhaseSealed: the target has sealed with that digest.
	PhaseSealed MovePhase = "sealed"
	// PhaseFlipped: the record is active at the target, Epoch+2.
	PhaseFlipped MovePhase = "flipped"
	// PhaseDone: the target serves and the source has let go.
	PhaseDone MovePhase = "done"
	// PhaseUndone: the user is where it was; Reason says why.
	PhaseUndone MovePhase = "undone"
)

// Finished reports whether the move needs nobody any more.
func (p MovePhase) Finished() bool { return p == PhaseDone || p == PhaseUndone }

// Move is move/<user>: the journal of a move. It has no lease (R8); its owner's
// claim, move-owner/<user>, has. A finished journal stays as the receipt until
// the next move of that user.
type Move struct {
	Version int       `json:"v"`
	ID      string    `json:"id"`
	User    User      `json:"user"`
	Source  BackendID `json:"source"`
	Target  BackendID `json:"target"`
	// Epoch is the record's epoch when the move was planned: busy is Epoch+1,
	// flipped or rolled back is Epoch+2.
	Epoch Epoch     `json:"epoch"`
	Phase MovePhase `json:"phase"`
	// Reason is why it was undone, in words for the operator.
	Reason  string    `json:"reason,omitempty"`
	Created time.Time `json:"created"`
	// Receipt is the digest of the manifest both sides agreed on, in hex.
	Receipt  string `json:"receipt,omitempty"`
	Messages int64  `json:"messages,omitempty"`
	Bytes    int64  `json:"bytes,omitempty"`
	// Maildrop is the POP3 session that had the maildrop at the freeze, and is to find
	// it free at the target.
	Maildrop string `json:"maildrop,omitempty"`
	// CopiedBytes and Passes tell how the hot copy went.
	CopiedBytes int64 `json:"copied_bytes,omitempty"`
	Passes      int   `json:"passes,omitempty"`
	// BusySince is the mover's clock at the busy transaction, BusyMS the time
	// from there to the end, of all tries together. They inform; they decide nothing (R7).
	BusySince time.Time `json:"busy_since,omitzero"`
	BusyMS    int64     `json:"busy_ms,omitempty"`
	// Tries counts the times the move was put off: the user was busy for too long,
	// or would have been. It is not tried again before NotBefore. A move that is
	// tried again begins at the record's epoch of then.
	Tries     int       `json:"tries,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	// Waiting is why the move does not go on, or goes on slowly, in words for the
	// operator; empty while it does.
	Waiting  string    `json:"waiting,omitempty"`
	Finished time.Time `json:"finished,omitzero"`
}

// Incarnation is incarnation/<id>: the highest start count that a backend's
// disk has had. A lower one on disk is a rolled-back disk (R9).
type Incarnation struct {
	Count uint64 `json:"count"`
	// Disk is the random name the disk got when it was first used.
	Disk string `json:"disk"`
}

const valueVersion = 1

// encode writes a value that json can always write.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("director: " + err.Error()) // only our own plain structs come here
	}
	return b
}

func decode[T any](what string, b []byte) (T, error) {
	var v struct {
		Version int `json:"v"`
	}
	var t T
	if err := json.Unmarshal(b, &v); err != nil {
		return t, fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
	}
	if v.Version > valueVersion {
		return t, fmt.Errorf("%s: written by a newer waypost (version %d): %w", what, v.Version, ErrInvalid)
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
	}
	return t, nil
}

// DecodeAccount and its like read a stored value; they refuse a newer version.
func DecodeAccount(b []byte) (Account, error) { return decode[Account]("account", b) }

// DecodeAddress reads a stored Address.
func DecodeAddress(b []byte) (Address, error) { return decode[Address]("address", b) }

// DecodeDomain reads a stored Domain.
func DecodeDomain(b []byte) (Domain, error) { return decode[Domain]("domain", b) }

// DecodeBackend reads a stored Backend.
func DecodeBackend(b []byte) (Backend, error) { return decode[Backend]("backend", b) }

// DecodeMove reads a stored Move.
func DecodeMove(b []byte) (Move, error) { return decode[Move]("move", b) }

// SplitSubaddress takes "local+folder@domain" apart (RFC 5233): the base
// address in lower case, and the folder as written.
func SplitSubaddress(address string) (base, folder string) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return strings.ToLower(address), ""
	}
	local, domain := address[:at], address[at:]
	if i := strings.IndexByte(local, '+'); i > 0 {
		folder, local = local[i+1:], local[:i]
	}
	return strings.ToLower(local + domain), folder
}
