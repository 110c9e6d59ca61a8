# map_library posix_regex: an extended regular expression and where its users' mail is; the first
# line that matches holds. $1 to $9 are what stands in brackets.
^[a-k]: mail1.example.org
^[l-z]: mail2.example.org:1143
'(.*)@example\.net$': $1@mail.example.net
