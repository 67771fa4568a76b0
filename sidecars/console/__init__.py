"""The console: pages for people on the admin port.

`front` is the part in the process that serves: it starts the console's own process at the first request and
passes requests on to it. All else runs there. The console asks the admin port as any operator could, so it
can change nothing, and it never loads into a process that answers Envoy.
"""
