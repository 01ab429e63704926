// Keeps a page up to date: takes parts of it, and lines of a log, as the server sends them. Without it, a reload shows the same.
"use strict";

(() => {
    const main = document.querySelector("main[data-stream]");
    const sign = document.getElementById("live");
    if (!main || !sign || !window.EventSource) return;

    // Pieces of a log that are kept, as many as the server puts into a page that is loaded.
    const MOST_PIECES = 2000;
    // Milliseconds until it is tried again where the server took no stream.
    const REFUSED = 10000;

    const log = document.getElementById("output");
    const newest = document.getElementById("newest");
    const held = new Map();
    let stream = null, again = null, at = "", over = false, follows = true;

    function say(state, words) {
        sign.hidden = false;
        if (sign.dataset.state === state) return;
        sign.dataset.state = state;
        sign.querySelector("span").textContent = words;
    }

    // — parts —

    function put(id, html) {
        const part = document.getElementById(id);
        if (!part) return;
        // Nothing is taken away under somebody's hands; it is put in when they have gone on.
        if (part.contains(document.activeElement)) {
            held.set(id, html);
            return;
        }
        const opened = [...part.querySelectorAll("details[open][id]")].map(each => each.id);
        part.innerHTML = html;
        for (const each of opened) document.getElementById(each)?.setAttribute("open", "");
    }

    main.addEventListener("focusout", () => setTimeout(() => {
        const waiting = [...held];
        held.clear();
        for (const [id, html] of waiting) put(id, html);
    }));

    // — the log —

    function add(pieces) {
        if (!log) return;
        for (const piece of pieces) {
            const shown = document.createElement("span");
            shown.className = `piece ${piece.stream}`;
            shown.textContent = piece.text;
            log.append(shown);
        }
        while (log.childElementCount > MOST_PIECES) log.firstElementChild.remove();
        log.classList.toggle("nothing", !log.childElementCount);
        follow();
    }

    function follow() {
        if (log && follows) log.scrollTop = log.scrollHeight;
        if (newest) newest.hidden = follows;
    }

    log?.addEventListener("scroll", () => {
        follows = log.scrollHeight - log.scrollTop - log.clientHeight < 32;
        if (newest) newest.hidden = follows;
    }, { passive: true });
    newest?.addEventListener("click", () => {
        follows = true;
        follow();
        log.focus({ preventScroll: true });
    });

    // — the stream —

    function close() {
        clearTimeout(again);
        stream?.close();
        stream = null;
    }

    function open() {
        close();
        const address = new URL(main.dataset.stream, location.href);
        if (at) address.searchParams.set("after", at);
        stream = new EventSource(address);
        const heard = event => {
            if (event.lastEventId) at = event.lastEventId;
            say("live", "Live");
            return JSON.parse(event.data);
        };
        stream.addEventListener("open", () => say("live", "Live"));
        stream.addEventListener("part", event => {
            const { id, html } = heard(event);
            put(id, html);
        });
        stream.addEventListener("lines", event => add(heard(event).pieces));
        stream.addEventListener("over", event => {
            over = true;
            close();
            if (JSON.parse(event.data).why === "end") sign.hidden = true;
            else say("still", "Not live any more: load the page again");
        });
        stream.addEventListener("error", () => {
            if (stream === null) return;
            say("waiting", "Not live; trying again");
            // The browser itself goes on after a loss, and not after a refusal.
            if (stream.readyState === EventSource.CLOSED) again = setTimeout(open, REFUSED);
        });
    }

    // A page that nobody looks at holds no connection.
    document.addEventListener("visibilitychange", () => {
        if (over) return;
        if (document.hidden) close();
        else open();
    });
    // One that is left for another, and may be come back to.
    window.addEventListener("pagehide", close);
    window.addEventListener("pageshow", event => {
        if (event.persisted && !over) open();
    });

    follow();
    if (!document.hidden) open();
})();
