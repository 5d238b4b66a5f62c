package backend

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/archive"
	"waypost/backend/maildir"
	"waypost/backend/pop3"
	"waypost/director"
	"waypost/internal/config"
)

// Config is a backend's settings; the TOML file of the role has these names.
type Config struct {
	// ID is the backend's name in the directory, like "b1". Required.
	ID director.BackendID `toml:"id"`
	// Listen is the node listener's address, host:port: LMTP, sessions, SFTP
	// and control calls, all under mutual TLS. Required.
	Listen string `toml:"listen"`
	// Advertise is the host:port that other nodes reach Listen at; empty: Listen.
	Advertise string `toml:"advertise"`
	// Data is the folder that holds everything. Required; made when missing.
	Data string `toml:"data"`
	// Hostname goes into Received lines and file names; empty: the machine's.
	Hostname string `toml:"hostname"`
	// Weight is the share of new users, 100 by default; CapacityBytes what may
	// be filled, 0: the disk's size. They are written to the directory when
	// the backend first appears there; later the directory's values count.
	Weight        int   `toml:"weight"`
	CapacityBytes int64 `toml:"capacity_bytes"`
	// BusyLimit is how long a user may be busy before this home takes it back
	// (R7); 60s by default.
	BusyLimit time.Duration `toml:"busy_limit"`
	// OwnerGrace is how long a busy user may be without a live mover; 10s.
	OwnerGrace time.Duration `toml:"owner_grace"`
	// TrashGrace is how long a moved-away or deleted tree is kept; 7 days.
	TrashGrace time.Duration `toml:"trash_grace"`
	// MaxMessageBytes bounds one message; 1 GiB by default.
	MaxMessageBytes int64 `toml:"max_message_bytes"`
	// CreateFolders makes the folder of user+folder@ when it is missing;
	// otherwise such mail goes to INBOX.
	CreateFolders bool `toml:"create_folders"`
	// POP3UIDL is the format of POP3's unique ids, in Dovecot's letters: "%g"
	// (the message's name for life, the default), or "%08Xu%08Xv" as Dovecot's
	// own default, for mailboxes whose clients know those.
	POP3UIDL string `toml:"pop3_uidl_format"`
	// SieveBefore and SieveAfter are files of Sieve scripts that run before and
	// after each user's; SieveGlobal is the folder of scripts that users' scripts
	// may include as :global.
	SieveBefore []string `toml:"sieve_before"`
	SieveAfter  []string `toml:"sieve_after"`
	SieveGlobal string   `toml:"sieve_global"`
	// SieveSpamHeader is the field in which a filter before us says how sure it
	// is that a message is spam, a number or stars, and SieveSpamMax its highest
	// value; SieveVirusHeader and SieveVirusMax likewise. For spamtest and
	// virustest (RFC 5235).
	SieveSpamHeader  string  `toml:"sieve_spam_header"`
	SieveSpamMax     float64 `toml:"sieve_spam_max"`
	SieveVirusHeader string  `toml:"sieve_virus_header"`
	SieveVirusMax    float64 `toml:"sieve_virus_max"`
	// QuotaRules are what folders may hold beyond the quota, like Trash = "+10%" or
	// "+50000000" bytes; Trash = "+10%" by default.
	QuotaRules map[string]string `toml:"quota_rules"`
	// QuotaWarnings are the per cents of the quota at which the user gets a
	// warning; 80 and 95 by default.
	QuotaWarnings []int `toml:"quota_warnings"`
	// UTF8FolderNames names new folders in UTF-8 on the disk; otherwise in
	// modified UTF-7, as Dovecot does by default.
	UTF8FolderNames bool `toml:"utf8_folder_names"`
	// MaxSessions bounds open sessions; 20,000 by default.
	MaxSessions int `toml:"max_sessions"`
	// MaxFolders bounds the folders a user may make; 1,000 by default.
	MaxFolders int `toml:"max_folders"`
	// FolderSeparator is what clients and Sieve scripts have between the parts of a folder's name, "/"
	// by default or ".", as Dovecot's Maildir++ and Courier have it. FolderPrefix puts all folders but INBOX
	// below it, as Courier does: "INBOX." or, by its separator, "INBOX/"; empty by default. All backends must
	// have the same. Names in this file and on the command line have "/" and no prefix, whatever is said here.
	FolderSeparator string `toml:"folder_separator"`
	FolderPrefix    string `toml:"folder_prefix"`
	// SpecialUse are names that say what a folder is for where no client has said it, by
	// special use: Sent = ["Sent", "Gesendet"]. The first that is there counts. By default
	// mailbox.UsualUses; an empty table: none.
	SpecialUse map[string][]string `toml:"special_use"`
	// AutoFolders are folders that every account has: made and subscribed when it is opened,
	// where they are missing. None by default.
	AutoFolders []string `toml:"auto_folders"`
	// Archives are trees of mail that clients see as folders that can be read only,
	// in namespaces of their own (package archive).
	Archives []archive.Config `toml:"archives"`
	// SharedNamespace is where clients see what other members of their sharing group
	// share, "Other Users" by default; "-" shows it to nobody.
	SharedNamespace string `toml:"shared_namespace"`
	// JournalSegments bounds the journal, in segments of 16 MiB; 64 by default.
	JournalSegments int `toml:"journal_segments"`
	// OpenUsers bounds the mailboxes kept open without a session; 2,000.
	OpenUsers int `toml:"open_users"`
	// FolderCacheBytes bounds what of folders is kept in memory of mailboxes that no
	// session has open, so that the next one need not read them again; 256 MB.
	FolderCacheBytes int64 `toml:"folder_cache_bytes"`
	// FullText says who has an index of texts, which makes SEARCH BODY and TEXT fast:
	// "off", "users" (those whose account asks for it; the default) or "all".
	FullText string `toml:"full_text"`
}

// withDefaults fills what is unset.
func (c Config) withDefaults() (Config, error) {
	if c.Hostname == "" {
		h, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("hostname is not set, and the system has none: %w", err)
		}
		c.Hostname = h
	}
	if c.Advertise == "" {
		c.Advertise = c.Listen
	}
	config.Default(&c.Weight, 100)
	config.Default(&c.BusyLimit, 60*time.Second)
	config.Default(&c.OwnerGrace, 10*time.Second)
	config.Default(&c.TrashGrace, 7*24*time.Hour)
	config.Default(&c.MaxMessageBytes, 1<<30)
	config.Default(&c.MaxSessions, 20_000)
	config.Default(&c.OpenUsers, 2_000)
	config.Default(&c.FolderCacheBytes, 256_000_000)
	config.Default(&c.FolderSeparator, string(mailbox.Separator))
	config.Default(&c.FullText, fullTextUsers)
	config.Default(&c.MaxFolders, maildir.DefaultMaxFolders)
	config.Default(&c.SharedNamespace, "Other Users")
	config.Default(&c.JournalSegments, 64)
	config.Default(&c.SieveSpamMax, 10)
	config.Default(&c.SieveVirusMax, 5)
	if c.QuotaRules == nil {
		c.QuotaRules = map[string]string{"Trash": "+10%"}
	}
	if c.QuotaWarnings == nil {
		c.QuotaWarnings = []int{80, 95}
	}
	return c, c.Validate()
}

// Validate says what is wrong, one error per setting.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("backend: "+format, a...)) }
	if err := director.ValidBackendID(c.ID); err != nil {
		bad("id: %w", err)
	}
	if c.Listen == "" {
		bad("listen: say host:port of the node listener")
	}
	if c.Data == "" {
		bad("data: say the folder that holds the mail")
	}
	if c.Weight < 0 || c.CapacityBytes < 0 || c.MaxMessageBytes < 0 || c.MaxSessions < 0 || c.OpenUsers < 0 || c.MaxFolders < 0 || c.FolderCacheBytes < 0 {
		bad("weight, capacity_bytes, max_message_bytes, max_sessions, open_users, max_folders, folder_cache_bytes: not below 0")
	}
	if c.JournalSegments < 0 || c.JournalSegments > 0 && c.JournalSegments < 4 {
		bad("journal_segments: at least 4")
	}
	if _, err := pop3.ParseUIDL(c.POP3UIDL); c.POP3UIDL != "" && err != nil {
		bad("pop3_uidl_format: %w", err)
	}
	if err := validFullText(c.FullText); c.FullText != "" && err != nil {
		bad("full_text: %w", err)
	}
	if _, err := c.extra(); err != nil {
		bad("quota_rules: %w", err)
	}
	separator := cmp.Or(c.FolderSeparator, string(mailbox.Separator))
	if separator != "/" && separator != "." {
		bad("folder_separator: %q: say \"/\" or \".\"", separator)
	}
	if c.FolderPrefix != "" && c.FolderPrefix != mailbox.Inbox+separator {
		bad("folder_prefix: %q: say %q, or nothing", c.FolderPrefix, mailbox.Inbox+separator)
	}
	if _, err := c.uses(); err != nil {
		bad("special_use: %w", err)
	}
	if i := slices.IndexFunc(c.AutoFolders, func(name string) bool { return !maildir.ValidFolder(name) }); i >= 0 {
		bad("auto_folders: %q is no name for a folder", c.AutoFolders[i])
	}
	if err := archive.Validate(c.Archives); err != nil {
		bad("archives: %w", err)
	}
	if err := validShared(c.SharedNamespace, c.Archives); err != nil {
		bad("shared_namespace: %w", err)
	}
	for _, p := range c.QuotaWarnings {
		if p < 1 || p > 100 {
			bad("quota_warnings: %d: say 1 to 100 per cent", p)
		}
	}
	if c.SieveSpamMax < 0 || c.SieveVirusMax < 0 {
		bad("sieve_spam_max, sieve_virus_max: not below 0")
	}
	if c.BusyLimit < 0 || c.OwnerGrace < 0 || c.TrashGrace < 0 {
		bad("busy_limit, owner_grace, trash_grace: not below 0")
	}
	return errors.Join(errs...)
}

// naming is FolderSeparator and FolderPrefix.
func (c Config) naming() mailbox.Naming {
	return mailbox.Naming{Separator: c.FolderSeparator[0], Inbox: c.FolderPrefix != ""}
}

// uses is SpecialUse as the store has it.
func (c Config) uses() (mailbox.Uses, error) {
	if c.SpecialUse == nil {
		return mailbox.UsualUses(), nil
	}
	return mailbox.ParseUses(c.SpecialUse)
}

// extra is QuotaRules as the store has them.
func (c Config) extra() (map[string]maildir.Extra, error) {
	rules := map[string]maildir.Extra{}
	for folder, text := range c.QuotaRules {
		e, err := maildir.ParseExtra(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", folder, err)
		}
		rules[folder] = e
	}
	return rules, nil
}
