// Package census is the contract of the call by which a backend tells a mover what
// it and its users hold, so that plans can be made. It has the messages and
// nothing else; rebalance asks, backends answer.
//
// The call is POST Path on the node listener (ALPN waypost-control/1), JSON both
// ways. It is paged by the users' keys, so that neither side has to keep all users;
// a page is what holds while it is made, the whole of them no snapshot: plans are
// checked against the directory, user by user, when they are carried out. A backend
// that does not know the call (an older version) answers 404.
package census

import "waypost/director"

// Path of the call (Request → Reply).
const Path = "/v1/census"

// MaxPage bounds the users of an answer.
const MaxPage = 5000

// Request asks for the users whose keys come after After, in order. Limit 0 asks
// for the totals alone; above MaxPage it is MaxPage.
type Request struct {
	After director.User `json:"after,omitempty"`
	Limit int           `json:"limit,omitempty"`
}

// Reply is a page. More tells that there are users after the last one.
type Reply struct {
	Totals Totals `json:"totals"`
	Users  []User `json:"users,omitempty"`
	More   bool   `json:"more,omitempty"`
}

// Totals is what the backend holds. Users and Sessions are those of now; the others
// were added up from AsOf on, some minutes ago: whoever asks adds to them, and takes
// off, what has moved since.
type Totals struct {
	Users         int64 `json:"users"`
	Bytes         int64 `json:"bytes"`
	Messages      int64 `json:"messages"`
	CapacityBytes int64 `json:"capacity_bytes"`
	Sessions      int64 `json:"sessions"`
	// DeliveriesPerDay is the mean of the last days.
	DeliveriesPerDay float64 `json:"deliveries_per_day"`
	// AsOf is in Unix milliseconds; 0 means now.
	AsOf int64 `json:"as_of_ms,omitempty"`
}

// User is what one user holds and does.
type User struct {
	User     director.User `json:"u"`
	Bytes    int64         `json:"b"`
	Messages int64         `json:"m"`
	Sessions int           `json:"s,omitempty"`
	// DeliveriesPerDay is the mean of the last days.
	DeliveriesPerDay float64 `json:"d,omitempty"`
	// LastActive is when something last changed in the mailbox, in Unix seconds.
	LastActive int64 `json:"a,omitempty"`
}

// Load is the one number in which plans measure work: a session counts as much as
// one delivery a minute.
func Load(sessions int64, deliveriesPerDay float64) float64 {
	return float64(sessions) + deliveriesPerDay/(24*60)
}
