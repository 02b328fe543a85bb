"""python -m shards compose | convert | index | depth | merge | verify | show | export"""

if __name__ == "__main__":  # workers import this too, and need none of the commands: 0.1 s less for each
    from shards.errors import report_errors

    with report_errors():  # of Ctrl-C while the rest is imported, too
        from shards.commands import main

        main()
