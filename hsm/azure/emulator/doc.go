// Package emulator answers as Azure Key Vault, Managed HSM and the token
// endpoint of a managed identity do, as far as a customer-managed key needs
// them, and can be made to refuse, fail and hang as they can.
//
// It listens with TLS for all its vaults, told apart by the host name
// (https://NAME.vault.azure.net, reached through a private endpoint), under a
// certificate authority of its own, at two addresses: the public one, where
// firewalls and disabled public access count, and that of the private link; and
// without TLS, on a loopback address, for the token endpoints and the control
// commands. Everything it knows is in one
// directory and survives a restart.
//
// What it is faithful in: the 401 challenge; tokens bound to identities; access
// policies and roles, the firewall and disabled public access, each with its
// 403 and inner error code; key_ops, enabled, nbf and exp (an expired key or
// one that is not yet active still decrypts); versions, rotation, soft delete,
// recovery levels; request ids and headers. What it leaves out: signing, key
// backup and release, the control plane, and all of Entra ID (played at
// https://localhost) but the two endpoints that give a client its token. They
// take any assertion, except of an application that was given a certificate or
// token of its own.
//
// It is for tests and drills. Its private keys are in a file.
package emulator
