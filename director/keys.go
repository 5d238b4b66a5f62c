package director

// Keys of the directory, relative to the store's prefix.
const (
	keySchema       = "schema"
	keyEra          = "era"
	PrefixLocation  = "location/"
	PrefixAccount   = "account/"
	PrefixAddress   = "address/"
	PrefixDomain    = "domain/"
	PrefixBackend   = "backend/"
	PrefixMove      = "move/"
	PrefixMoveOwner = "move-owner/"
	// PrefixReceipt has the finished journals: what movers go through stays
	// small, however many users have been moved.
	PrefixReceipt = "receipt/"
	// PrefixProof has what remains of moves that were done (Proofs).
	PrefixProof       = "proof/"
	PrefixIncarnation = "incarnation/"
	// KeyLimits bounds moves (Limits).
	KeyLimits = "limits"
	// KeyEra is the key whose value changes when a directory was restored (R10).
	KeyEra = keyEra
)

// SchemaVersion is the version of the keys and values that this code reads and
// writes; a store with another one is refused.
const SchemaVersion = "1"

// CatchAll is the local part of a domain's catch-all address.
const CatchAll = "*"

func LocationKey(u User) string  { return PrefixLocation + string(u) }
func AccountKey(u User) string   { return PrefixAccount + string(u) }
func MoveKey(u User) string      { return PrefixMove + string(u) }
func ReceiptKey(u User) string   { return PrefixReceipt + string(u) }
func ProofKey(u User) string     { return PrefixProof + string(u) }
func MoveOwnerKey(u User) string { return PrefixMoveOwner + string(u) }

func DomainKey(d string) string              { return PrefixDomain + d }
func BackendKey(id BackendID) string         { return PrefixBackend + string(id) }
func IncarnationKey(id BackendID) string     { return PrefixIncarnation + string(id) }
func AddressKey(local, domain string) string { return PrefixAddress + domain + "/" + local }
