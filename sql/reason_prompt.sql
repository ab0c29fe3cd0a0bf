-- One row per thing to explain: what is shown to the language model, and the fingerprint of the question.
--
-- The evidence is short because that is what small models can use; fit_evidence shortens what still does not fit into
-- [evidence] tokens, what says least first.
--   item:    content, praise, fault, keywords, attributes = what it is and what people say of it (item_content.sql,
--            item_voice.sql); liked = three titles that its likers also liked (by PMI), related = three that its likers
--            like more than its dislikers do, or where nothing goes with it the liked items nearest by text, disliked = two
--            that its dislikers prefer; verdict = like where at least half of its raters do, dislike where fewer than a
--            quarter do, else mixed
--   history: praise, fault = what the user wrote, content = what the latest likes are about (user_voice.sql); liked = the
--            four latest likes, disliked = the two worst-rated dislikes, related = three titles that go with the latest
--            likes of this user (by PMI) and that the user has not met lately
--   pair:    what speaks for an item to a user (pair_evidence.sql): content, praise, fault, keywords = the item's; liked =
--            four titles that the user likes, related = those of them that go with the item, disliked = two that the user
--            does not like, attributes = the categories of the item that the user likes; verdict = like: who re-ranks
--            wants to know what speaks for a candidate, and whether the user took to it is not known
-- tellers: whose sentences praise and fault of an item or a pair are, also those that fit_evidence leaves out: `curec forget` finds
-- them by it. Never shown.
-- A row without any evidence is kept and counted later. An item without a title has no subject and is described by its
-- attributes. No title stands in two lists, nor in a list and as the subject; but related of a pair stands among liked.
with item_listed as (
    select
        a.item_id,
        a.as_of,
        a.title,
        a.n_likes,
        a.n_dislikes,
        a.disliker_prefers,
        array_concat(a.liker_also, coalesce(n.titles, cast(make_array() as varchar[]))) as liker_also,
        coalesce(c.attributes, a.categories) as attributes,
        cast(cardinality(a.categories) as bigint) as n_categories,
        coalesce(c.content, cast(make_array() as varchar[])) as content,
        coalesce(v.praise, cast(make_array() as varchar[])) as praise,
        coalesce(v.fault, cast(make_array() as varchar[])) as fault,
        coalesce(v.keywords, cast(make_array() as varchar[])) as keywords,
        coalesce(v.tellers, cast(make_array() as varchar[])) as tellers,
        array_slice(
            array_except(
                make_array(
                    a.co_consumed[1]['title'],
                    a.co_consumed[2]['title'],
                    a.co_consumed[3]['title'],
                    a.co_consumed[4]['title'],
                    a.co_consumed[5]['title']),
                make_array(cast(null as varchar), a.title)),
            1, 3) as liked
    from item_audience as a
    left join item_content as c on c.item_id = a.item_id
    left join item_voice as v on v.item_id = a.item_id
    left join item_nearest as n on n.item_id = a.item_id
),
item_evidence as (
    select
        'item' as kind,
        cast(null as varchar) as user_id,
        cast(item_id as varchar) as item_id,
        as_of,
        cast(title as varchar) as subject,
        case
            when 2 * n_likes >= n_likes + n_dislikes then 'like'
            when 4 * n_likes >= n_likes + n_dislikes then 'mixed'
            else 'dislike'
        end as verdict,
        liked,
        array_slice(array_except(disliker_prefers, array_append(liked, title)), 1, 2) as disliked,
        -- Two items may have one title: what dislikers prefer, by that title, is nothing that likers do.
        array_slice(
            array_except(liker_also, array_append(array_concat(liked, disliker_prefers), title)), 1, 3) as related,
        -- Three categories and all that has a label.
        array_concat(
            array_slice(attributes, 1, least(n_categories, 3)),
            array_slice(attributes, n_categories + 1, n_categories + 8)) as attributes,
        content,
        praise,
        fault,
        keywords,
        tellers
    from item_listed
),
-- What goes with the liked, and what was met lately: what stands on both sides is left out by grouping, which costs less than
-- to sort both.
near as (
    select h.user_id, a.item_id, a.title, a.strength, false as is_met
    from (
        select user_id, recent_item['item_id'] as item_id
        from (select user_id, unnest(recent) as recent_item from user_history)
        where recent_item['liked']
    ) as h
    join (
        select
            item_id as source_id,
            other['item_id'] as item_id,
            other['title'] as title,
            other['pmi'] * other['n_both'] / (other['n_both'] + 10) as strength
        from (select item_id, unnest(co_consumed) as other from item_audience)
    ) as a on a.source_id = h.item_id
    union all
    select
        user_id,
        recent_item['item_id'] as item_id,
        cast(null as varchar) as title,
        cast(null as double) as strength,
        true as is_met
    from (select user_id, unnest(recent) as recent_item from user_history)
),
neighbour as (
    select user_id, title, max(strength) as strength
    from (
        select user_id, item_id, max(title) as title, max(strength) as strength
        from near
        group by user_id, item_id
        having not bool_or(is_met)
    )
    where title is not null
    group by user_id, title
),
neighbour_top as (
    select user_id, min_by(title, place, 8) as titles
    from (
        select user_id, title, row_number() over (partition by user_id order by strength desc, title) as place
        from neighbour
    )
    where place <= 8
    group by user_id
),
history_evidence as (
    select
        'history' as kind,
        cast(h.user_id as varchar) as user_id,
        cast(null as varchar) as item_id,
        h.as_of,
        cast(null as varchar) as subject,
        case when h.n_likes > 0 then 'like' else 'dislike' end as verdict,
        array_slice(h.liked_titles, 1, 4) as liked,
        array_slice(array_except(h.disliked_titles, h.liked_titles), 1, 2) as disliked,
        array_slice(
            array_except(
                coalesce(n.titles, cast(make_array() as varchar[])), array_concat(h.liked_titles, h.disliked_titles)),
            1, 3) as related,
        array_slice(h.top_categories, 1, 3) as attributes,
        coalesce(v.content, cast(make_array() as varchar[])) as content,
        coalesce(v.praise, cast(make_array() as varchar[])) as praise,
        coalesce(v.fault, cast(make_array() as varchar[])) as fault,
        cast(make_array() as varchar[]) as keywords,
        cast(null as varchar[]) as tellers
    from user_history as h
    left join neighbour_top as n on n.user_id = h.user_id
    left join user_voice as v on v.user_id = h.user_id
),
pair_shown as (
    select
        'pair' as kind,
        cast(user_id as varchar) as user_id,
        cast(item_id as varchar) as item_id,
        as_of,
        cast(subject as varchar) as subject,
        'like' as verdict,
        liked,
        disliked,
        related,
        attributes,
        content,
        praise,
        fault,
        keywords,
        tellers
    from pair_evidence
),
evidence as (
    select * from item_evidence
    union all
    select * from history_evidence
    union all
    select * from pair_shown
),
-- The functions below are given exactly these types.
typed as (
    select
        cast(kind as varchar) as kind,
        user_id,
        item_id,
        as_of,
        cast(subject as varchar) as subject,
        cast(verdict as varchar) as verdict,
        cast(liked as varchar[]) as liked,
        cast(disliked as varchar[]) as disliked,
        cast(related as varchar[]) as related,
        cast(attributes as varchar[]) as attributes,
        cast(content as varchar[]) as content,
        cast(praise as varchar[]) as praise,
        cast(fault as varchar[]) as fault,
        cast(keywords as varchar[]) as keywords,
        cast(tellers as varchar[]) as tellers
    from evidence
),
fitted as (
    select
        kind,
        user_id,
        item_id,
        as_of,
        verdict,
        tellers,
        fit_evidence(
            kind, subject, verdict, liked, disliked, related, attributes, content, praise, fault, keywords) as fit
    from typed
),
shortened as (
    select
        kind,
        user_id,
        item_id,
        as_of,
        fit['subject'] as subject,
        verdict,
        fit['liked'] as liked,
        fit['disliked'] as disliked,
        fit['related'] as related,
        fit['attributes'] as attributes,
        fit['content'] as content,
        fit['praise'] as praise,
        fit['fault'] as fault,
        fit['keywords'] as keywords,
        fit['prompt_text'] as prompt_text,
        fit['answer_stem'] as answer_stem,
        tellers
    from fitted
)
select
    kind,
    user_id,
    item_id,
    as_of,
    subject,
    verdict,
    liked,
    disliked,
    related,
    attributes,
    content,
    praise,
    fault,
    keywords,
    tellers,
    cast(prompt_text as varchar) as prompt_text,
    cast(answer_stem as varchar) as answer_stem,
    cast(prompt_key(prompt_text, answer_stem) as varchar) as prompt_key
from shortened
order by kind, user_id nulls last, item_id nulls last
