/* Keeps the servers whose name matches a regular expression:
 *     BackhandFromSO libexec/byHostname.so byHostname app */
#include <regex.h>
#include <string.h>

#include "mod_backhand.h"

int backhand_threadsafe = 1;

int byHostname(request_rec *r, int *servers, int *n, char *arg)
{
    regex_t expression;
    int i, kept = 0;

    (void)r;
    if (arg == NULL || regcomp(&expression, arg, REG_EXTENDED | REG_NOSUB) != 0) {
        return -1; /* the set stays as it is */
    }
    for (i = 0; i < *n; i++) {
        char name[sizeof(serverstats->hostname)];

        memcpy(name, serverstats[servers[i]].hostname, sizeof(name));
        name[sizeof(name) - 1] = '\0';
        if (regexec(&expression, name, 0, NULL, 0) == 0) {
            servers[kept++] = servers[i];
        }
    }
    regfree(&expression);
    *n = kept;
    return kept;
}
