package emulator

import (
	"fmt"
	"net/http"
)

// Operations are what can be granted, named as access policies name them.
var Operations = []string{
	"get", "list", "create", "import", "update", "rotate", "delete", "recover", "purge",
	"encrypt", "decrypt", "wrapKey", "unwrapKey", "getrotationpolicy", "setrotationpolicy",
}

// actions are the same as roles name them, after Microsoft.KeyVault/vaults/.
var actions = map[string]string{
	"get": "keys/read", "list": "keys/read", "create": "keys/create/action", "import": "keys/import/action",
	"update": "keys/update/action", "rotate": "keys/rotate/action", "delete": "keys/delete", "recover": "keys/recover/action",
	"purge": "keys/purge/action", "encrypt": "keys/encrypt/action", "decrypt": "keys/decrypt/action",
	"wrapKey": "keys/wrap/action", "unwrapKey": "keys/unwrap/action",
	"getrotationpolicy": "keys/rotationpolicy/read", "setrotationpolicy": "keys/rotationpolicy/write",
}

// reachable answers 403 if the vault's network rules refuse the request.
func (v *Vault) reachable(w http.ResponseWriter, c claims) bool {
	switch {
	case v.NoPublicAccess:
		fail(w, http.StatusForbidden, "Forbidden", "ForbiddenByConnection",
			"Public network access is disabled and request is not from a trusted service nor via an approved private link.\r\n"+caller(c, v))
	case v.Firewall:
		fail(w, http.StatusForbidden, "Forbidden", "ForbiddenByFirewall",
			"Client address is not authorized and caller is not a trusted service.\r\nClient address: 127.0.0.1\r\n"+caller(c, v))
	default:
		return true
	}
	return false
}

// needs is what an operation needs, as the vault's kind of permissions calls it.
func (v *Vault) needs(op string) string {
	if v.RBAC || v.Managed {
		return actions[op]
	}
	return op
}

// uses are the permissions that identities tried to use, by vault and identity.
type uses map[string]map[string]map[string]bool

// note adds one, whether it was granted or not.
func (u uses) note(v *Vault, who *Identity, op string) {
	if u[v.Name] == nil {
		u[v.Name] = map[string]map[string]bool{}
	}
	if u[v.Name][who.Name] == nil {
		u[v.Name][who.Name] = map[string]bool{}
	}
	u[v.Name][who.Name][v.needs(op)] = true
}

// Used says which permissions were asked for since the start, granted or not:
// by vault and identity, named as the vault's access policy or roles do.
func (e *Emulator) Used() map[string]map[string][]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.uses.list()
}

func (u uses) list() map[string]map[string][]string {
	all := map[string]map[string][]string{}
	for vault, identities := range u {
		all[vault] = map[string][]string{}
		for who, permissions := range identities {
			all[vault][who] = sorted(permissions)
		}
	}
	return all
}

// permitted answers 403 if the identity may not do this.
func (v *Vault) permitted(w http.ResponseWriter, who *Identity, op string, c claims) bool {
	granted := v.Permissions[who.ObjectID]
	if granted[op] || (v.RBAC || v.Managed) && op == "list" && granted["get"] {
		return true
	}
	switch {
	case v.Managed:
		fail(w, http.StatusForbidden, "Forbidden", "AccessDenied", fmt.Sprintf("Caller is not authorized to perform action 'Microsoft.KeyVault/managedHsm/%s'. %s", actions[op], caller(c, v)))
	case v.RBAC:
		fail(w, http.StatusForbidden, "Forbidden", "ForbiddenByRbac", fmt.Sprintf(
			"Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\n%s\r\nAction: 'Microsoft.KeyVault/vaults/%s'\r\nAssignment: (not found)\r\nDecisionReason: 'DeniedWithNoValidRBAC'",
			caller(c, v), actions[op]))
	case len(granted) == 0:
		fail(w, http.StatusForbidden, "Forbidden", "AccessDenied", fmt.Sprintf(
			"The user, group or application '%s' does not have keys %s permission on key vault '%s;location=%s'.", caller(c, v), op, v.Name, v.Region))
	default:
		fail(w, http.StatusForbidden, "Forbidden", "ForbiddenByPolicy", fmt.Sprintf(
			"Operation is not allowed.\r\nOperation: \"%s\"\r\n%s", op, caller(c, v)))
	}
	return false
}

func caller(c claims, v *Vault) string {
	return fmt.Sprintf("Caller: appid=%s;oid=%s;iss=%s\r\nVault: %s;location=%s", c.App, c.Object, c.Issuer, v.Name, v.Region)
}
