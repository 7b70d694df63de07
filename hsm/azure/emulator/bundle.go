package emulator

import (
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RecoveryLevels are the ones a vault can have.
var RecoveryLevels = []string{
	"Purgeable", "Recoverable+Purgeable", "Recoverable", "Recoverable+ProtectedSubscription",
	"CustomizedRecoverable+Purgeable", "CustomizedRecoverable", "CustomizedRecoverable+ProtectedSubscription",
}

// recoverableDays is how long a deleted key is kept.
func recoverableDays(level string) int {
	switch {
	case level == "Purgeable":
		return 0
	case strings.HasPrefix(level, "Customized"):
		return 7
	}
	return 90
}

func (a *answer) kid(k *Key, v *Version) string {
	return a.vault.URI() + "keys/" + k.Name + "/" + v.ID
}

// attributes are what is reported of a version.
func (a *answer) attributes(v *Version) map[string]any {
	m := map[string]any{
		"enabled": v.Enabled, "created": v.Created.Unix(), "updated": v.Updated.Unix(), "exportable": false,
		"recoveryLevel": a.vault.RecoveryLevel, "recoverableDays": recoverableDays(a.vault.RecoveryLevel),
		"hsmPlatform": map[bool]string{true: "2", false: "0"}[strings.HasSuffix(v.Type, "-HSM")],
	}
	if !v.NotBefore.IsZero() {
		m["nbf"] = v.NotBefore.Unix()
	}
	if !v.Expires.IsZero() {
		m["exp"] = v.Expires.Unix()
	}
	return m
}

// bundle is a key with its public half; of a deleted one also how to get it
// back.
func (a *answer) bundle(k *Key, v *Version) map[string]any {
	j := map[string]any{"kid": a.kid(k, v), "kty": v.Type, "key_ops": v.Ops}
	if p, err := v.private(); err == nil && p != nil {
		j["n"] = b64.EncodeToString(p.N.Bytes())
		j["e"] = b64.EncodeToString(big.NewInt(int64(p.E)).Bytes())
	} else if strings.HasPrefix(v.Type, "EC") {
		j["crv"] = "P-256"
	}
	m := map[string]any{"key": j, "attributes": a.attributes(v)}
	if v.Tags != nil {
		m["tags"] = v.Tags
	}
	a.deleted(k, m)
	return m
}

func (a *answer) deleted(k *Key, m map[string]any) {
	if k.DeletedAt.IsZero() {
		return
	}
	m["recoveryId"] = a.vault.URI() + "deletedkeys/" + k.Name
	m["deletedDate"] = k.DeletedAt.Unix()
	m["scheduledPurgeDate"] = k.DeletedAt.Add(time.Duration(recoverableDays(a.vault.RecoveryLevel)) * 24 * time.Hour).Unix()
}

// list answers with one page of keys, versions or deleted keys.
func (a *answer) list() {
	var items []map[string]any
	add := func(k *Key, v *Version, kid string) {
		m := map[string]any{"kid": kid, "attributes": a.attributes(v)}
		if v.Tags != nil {
			m["tags"] = v.Tags
		}
		a.deleted(k, m)
		items = append(items, m)
	}
	path := a.q.what
	switch a.q.what {
	case "versions":
		path = "keys/" + a.q.key + "/versions"
		if k := a.vault.Keys[a.q.key]; k != nil {
			for _, v := range k.Versions {
				add(k, v, a.kid(k, v))
			}
		}
	default:
		keys := a.vault.Keys
		if a.q.what == "deletedkeys" {
			keys = a.vault.Deleted
		}
		for _, name := range sorted(keys) {
			add(keys[name], keys[name].version(""), a.vault.URI()+"keys/"+name)
		}
	}
	page := map[string]any{"value": []any{}, "nextLink": nil}
	if a.q.skip < len(items) {
		end := min(a.q.skip+a.q.max, len(items))
		page["value"] = items[a.q.skip:end]
		if end < len(items) {
			page["nextLink"] = a.vault.URI() + path + "?api-version=7.6&maxresults=" + strconv.Itoa(a.q.max) + "&$skiptoken=" + strconv.Itoa(end)
		}
	}
	writeJSON(a.w, http.StatusOK, page)
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
