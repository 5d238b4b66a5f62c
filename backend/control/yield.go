package control

import (
	"waypost/director"
)

// Calls of a mover that yields to users, and of who asks later what a move left.
const (
	// PathLoad (LoadRequest → LoadReply): how the backend's users fare.
	PathLoad = "/v1/load"
	// PathPace (PaceRequest → PaceReply): at the source: how fast a user's tree is
	// sent, from now on; it may be changed while a pass runs.
	PathPace = "/v1/pace"
	// PathSending (UserRequest → SendingReply): at the source, before the user is marked busy:
	// who could lose a session by the freeze.
	PathSending = "/v1/sending"
	// PathVerify (VerifyRequest → stream of CheckLine, the last but one with
	// Verified): at the home: whether all that a move brought is there still.
	PathVerify = "/v1/verify"
)

// LoadRequest asks for a LoadReply.
type LoadRequest struct{}

// LoadReply tells of the last ten seconds, but for what says otherwise.
type LoadReply struct {
	Sessions int `json:"sessions"`
	// Deliveries are commits of messages by LMTP. Commands are what sessions asked
	// the store for: opening and listing folders, storing messages.
	Deliveries Latency `json:"deliveries"`
	Commands   Latency `json:"commands"`
	// CopiedBytesPerSecond is what pulls bring here.
	CopiedBytesPerSecond int64 `json:"copied_bytes_per_second"`
	// NetworkBytesPerSecond is what all interfaces but the loopback sent or
	// received, whichever is more, and NetworkPercent the most loaded one's share of
	// its speed; 0 where the system does not tell.
	NetworkBytesPerSecond int64   `json:"network_bytes_per_second"`
	NetworkPercent        float64 `json:"network_percent"`
	// DiskPercent is the share of the time in which the mail's disk was at work, and
	// IOPressurePercent that in which somebody waited for a disk (/proc/pressure/io);
	// 0 where the system does not tell.
	DiskPercent       float64 `json:"disk_percent"`
	IOPressurePercent float64 `json:"io_pressure_percent"`
}

// Latency is how long something took.
type Latency struct {
	PerSecond float64 `json:"per_second"`
	// MeanMS weighs what is younger more; P95MS is an upper bound, within a
	// fifth, of 95 % of them. Both are 0 where there was none.
	MeanMS float64 `json:"mean_ms"`
	P95MS  float64 `json:"p95_ms"`
}

// PaceRequest says how fast a user's tree is sent for the move whose busy epoch is
// Epoch. BytesPerSecond 0 does not bound.
type PaceRequest struct {
	User           director.User  `json:"user"`
	Epoch          director.Epoch `json:"epoch"`
	BytesPerSecond int64          `json:"bytes_per_second"`
}

// PaceReply tells the pace as it is: one too slow to be kept is raised.
type PaceReply struct {
	BytesPerSecond int64 `json:"bytes_per_second"`
}

// SendingReply counts the sessions of a user, and of the other members of a sharing group, whose
// command under way, if it is for a folder of the user's, could neither end after a freeze nor be
// carried to the target: so much of its literal has come that it is not kept any more.
type SendingReply struct {
	Sessions int `json:"sessions"`
	// Bytes is the most that one of them has still to send of its literal; 0 where that is not known.
	Bytes int64 `json:"bytes"`
}

// VerifyRequest asks the home about the move whose busy epoch was Epoch, and whose
// manifest had Digest by the directory.
type VerifyRequest struct {
	User   director.User  `json:"user"`
	Epoch  director.Epoch `json:"epoch"`
	Digest string         `json:"digest"`
}

// Verified counts what became of the messages that a move brought. What is missing
// is told by Findings of KindMissing.
type Verified struct {
	Digest   string `json:"digest"`
	Messages int64  `json:"messages"`
	// Same are where and what they were; Changed have other flags or are in another
	// folder, with the same contents; Expunged were, by the store's own history.
	Same     int64 `json:"same"`
	Changed  int64 `json:"changed"`
	Expunged int64 `json:"expunged"`
	Missing  int64 `json:"missing"`
}

// KindMissing: a message that a move brought is neither there, with its contents,
// nor known to be expunged.
const KindMissing = "missing"
