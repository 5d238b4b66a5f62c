package dovecot

import (
	"fmt"
	"runtime"
	"strings"
)

// settings are what a configuration is made of.
type settings struct {
	dir                     string
	internal, group, logins string // the users that Dovecot's own processes run as
	uid, gid                string // the owner of all mail
	imapPort                int
	fsync                   string
	lmtpProcesses           int
	sieve, quota            bool
	quotaBackend            string
	password                string
	access                  bool
	pop3Port                int
	// doveadmPort is where doveadm's commands are taken; 0: nowhere.
	doveadmPort int
}

// base is what all runs share. Dovecot is at its best here: no user data base is
// asked, processes are there before they are needed and live on, and a Maildir
// is not looked at for changes that nobody else makes.
const base = `
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
default_internal_user = %[2]s
default_internal_group = %[3]s
default_login_user = %[4]s
default_client_limit = 4096
default_process_limit = 512
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:~/Maildir
mail_fsync = %[7]s
maildir_very_dirty_syncs = yes
lda_mailbox_autocreate = yes
mail_max_userip_connections = 100
auth_cache_size = 16M
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  chroot =
  inet_listener imap {
    port = %[8]d
  }
  inet_listener imaps {
    port = 0
  }
}
service lmtp {
  chroot =
  process_min_avail = %[9]d
  process_limit = 512
  service_count = 0
  vsz_limit = 1G
  unix_listener %[1]s/lmtp.sock {
    mode = 0600
  }
}
service imap {
  vsz_limit = 2G
}
passdb {
  driver = static
  args = password=%[10]s
}
userdb {
  driver = static
  args = uid=%[5]s gid=%[6]s home=%[1]s/mail/%%u allow_all_users=yes
}
`

// accessPart is Dovecot at its best for sessions: login processes live on and serve many
// clients, mail processes serve a thousand sessions, one after the other.
const accessPart = `
protocols = imap lmtp pop3
mail_max_userip_connections = 20000
default_process_limit = 5000
service imap-login {
  service_count = 0
  client_limit = 4000
  process_min_avail = %[1]d
}
service imap {
  service_count = 1000
  process_min_avail = 10
  process_limit = 5000
}
service pop3-login {
  chroot =
  service_count = 0
  process_min_avail = 1
  inet_listener pop3 {
    port = %[2]d
  }
  inet_listener pop3s {
    port = 0
  }
}
service pop3 {
  service_count = 1000
  process_min_avail = 2
  vsz_limit = 2G
}
service auth {
  client_limit = 20000
}
service anvil {
  client_limit = 20000
}
`

const doveadmPart = `
doveadm_password = %s
service doveadm {
  vsz_limit = 2G
  inet_listener {
    port = %d
  }
}
`

const quotaPart = `
mail_plugins = $mail_plugins quota
plugin {
  quota = %s:User quota
  quota_rule = *:storage=100G
  quota_vsizes = yes
}
protocol imap {
  mail_plugins = $mail_plugins imap_quota
}
`

const lmtpPart = `
protocol lmtp {
  postmaster_address = postmaster@example.test
  mail_plugins = $mail_plugins%s
}
`

const sievePart = `
plugin {
  sieve = file:~/sieve;active=~/.dovecot.sieve
}
`

// render makes the configuration file.
func (s settings) render() string {
	var b strings.Builder
	fmt.Fprintf(&b, base, s.dir, s.internal, s.group, s.logins, s.uid, s.gid, s.fsync, s.imapPort, s.lmtpProcesses, s.password)
	if s.access {
		fmt.Fprintf(&b, accessPart, runtime.NumCPU(), s.pop3Port)
	}
	if s.doveadmPort != 0 {
		fmt.Fprintf(&b, doveadmPart, s.password, s.doveadmPort)
	}
	plugins := ""
	if s.quota {
		fmt.Fprintf(&b, quotaPart, s.quotaBackend)
	}
	if s.sieve {
		plugins = " sieve"
		b.WriteString(sievePart)
	}
	fmt.Fprintf(&b, lmtpPart, plugins)
	return b.String()
}
