// Package azure is the customer's key in Azure Key Vault or a Managed HSM.
//
// Every operation is one request to the vault with the algorithm RSA-OAEP-256:
// encrypt and decrypt, or wrapkey and unwrapkey for identities that only have
// those permissions. Nothing is computed locally or kept: a local encryption
// would not show that the permission was withdrawn. Wrapping uses the newest
// version of the key unless one is configured; unwrapping always uses the
// version that wrapped.
//
// The identity is, in this order: the application FederatedClientID, for which
// the user-assigned identity vouches (a vault in another tenant); the workload
// identity of AZURE_FEDERATED_TOKEN_FILE; the certificate of
// AZURE_CLIENT_CERTIFICATE_PATH; the managed identity of the host. The two of
// the environment are passed over if the configuration names a user-assigned
// identity other than AZURE_CLIENT_ID. All files are read anew whenever a key is
// opened.
//
// A vault's name is resolved and connected to as usual, or, with a private
// endpoint configured, reached at that address; its certificate must be for the
// vault's name in both cases, and the authentication challenge must be for the
// vault's domain.
//
// How answers are classed (hsm.Kind):
//
//	403 KeyDisabled, KeyOperationForbidden, ForbiddenBy-   denied
//	  Policy, ForbiddenByRbac, AccessDenied, other codes
//	403 encrypting with a key that is expired or not       denied (decrypting goes on)
//	  yet active
//	404 KeyNotFound: deleted                               denied
//	the identity is refused a token (4xx)                  denied
//	403 ForbiddenByFirewall, ForbiddenByConnection,        network-denied
//	  403 from something that is no vault
//	429                                                    throttled, with Retry-After
//	408, 5xx, no such host, no connection, TLS, time-out,  unreachable
//	  no identity endpoint
//	401 with a token: another tenant; a challenge for      misconfigured
//	  another domain; 400: damaged ciphertext; an answer
//	  that is none of a vault, breaks off, does not end,
//	  or leads to another host
//
// What the service's documentation leaves open is taken as it comes: challenges
// in every form that RFC 9110 allows, unknown fields, missing attributes, ids
// with a port or capitals, codes outside the inner error.
package azure
