// Package sieve is the mail filtering language of RFC 5228 with its
// extensions: Compile checks a script once, Run runs it for a message and says
// what is to be done.
//
// It owns no files and no connections and knows nothing of Maildirs or LMTP:
// the message comes through Message, everything else through Environment, and
// what is to be done comes back as a Result, which the caller carries out. So
// nothing of it survives a crash; the memories of vacation and duplicate are
// keys that the caller stores after it has carried out the actions. It starts
// no goroutines. A Script is immutable and safe for concurrent use; a Message
// that NewMessage made is too.
//
// Nothing a script or a message holds makes it panic or run for long: Limits
// bound everything, and the context ends a run. A script that fails, by a
// limit or otherwise, leaves the message in INBOX as it came (RFC 5228, Section
// 2.10.6).
//
// Extensions: fileinto, envelope, encoded-character, comparators (RFC 5228;
// i;unicode-casemap of RFC 5051), copy (3894), body (5173), environment (5183),
// variables (5229), vacation (5230), relational (5231), imap4flags (5232),
// subaddress (5233), spamtest, spamtestplus, virustest (5235), date and index
// (5260), editheader (5293), reject and ereject (5429), enotify (5435) with
// mailto (5436), ihave (5463), mailbox (5490), vacation-seconds (6131),
// extlists (6134), include (6609), duplicate (7352), special-use (8579), and
// regex of draft-ietf-sieve-regex as package regex describes it.
//
// Where the RFCs leave a choice:
//   - Header fields are compared as UTF-8, encoded words decoded; in address
//     tests what cannot be parsed is passed over.
//   - fileinto "INBOX" is keep. A second fileinto into a folder, or a second
//     redirect to an address, is the first one with the later flags and header.
//   - reject fails beside keep, fileinto, redirect and vacation of the same
//     script, not beside what an earlier script of a sequence did.
//   - "ihave" enables extensions from where it stands to the script's end; what
//     is used without being asked for fails when it is run.
//   - editheader cannot add or delete Received, Auto-Submitted, Return-Path and
//     Delivered-To.
//   - vacation answers nobody whose address looks like a machine's, and never
//     the user's own addresses.
package sieve
